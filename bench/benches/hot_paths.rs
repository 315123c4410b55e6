//! Rows a second on each hot path: `cargo bench -p bench`.

use bench::hot_paths::rows::ROWS;
use bench::hot_paths::{HotPath, Input};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn hot_paths(criterion: &mut Criterion) {
    let input = Input::make().expect("the rows are fixed");
    let mut group = criterion.benchmark_group("hot paths");
    group.throughput(Throughput::Elements(ROWS as u64));
    for path in HotPath::ALL {
        let mut pass = path.pass(&input).expect("the rows are fixed");
        group.bench_function(path.name(), |bencher| bencher.iter(|| pass().expect("the rows are fixed")));
    }
    group.finish();
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
