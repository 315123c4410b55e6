# The programs of this repository, built once and put on a small image. See docker-compose.yml.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked \
 && mkdir /out \
 && cp target/release/product-updater target/release/cdc-producer target/release/consumer target/release/verify target/release/stream /out/ \
 # The licences of what is compiled in, librdkafka and zstd among it.
 && mkdir /licences \
 && cargo tree --locked --edges normal --prefix none --format '{p}' | sort -u | while read -r name version path; do \
        cd /usr/local/cargo/registry/src/*/"$name-${version#v}" 2>/dev/null || continue; \
        find . -maxdepth 2 -type f \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'notice*' \) | \
            while read -r file; do install -D -m 644 "$file" "/licences/$name-${version#v}/$file"; done; \
    done

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
COPY --from=build /licences/ /usr/share/doc/product-stream/
COPY LICENSE /usr/share/doc/product-stream/
COPY stream/assets/vendor/uplot.LICENSE /usr/share/doc/product-stream/uplot/LICENSE
WORKDIR /app
USER 1000:1000
