CREATE DATABASE IF NOT EXISTS trades_db;
USE trades_db;
CREATE TABLE instrument (symbol VARCHAR(12) PRIMARY KEY, name VARCHAR(100), currency CHAR(3), tick DECIMAL(12,6));
CREATE TABLE trade (
    id BIGINT UNSIGNED PRIMARY KEY, symbol VARCHAR(12) NOT NULL, traded_at DATETIME(6), side ENUM('buy','sell'),
    price DECIMAL(18,6), quantity BIGINT
);
-- While the programs run:
START TRANSACTION;
UPDATE trade SET quantity = 150 WHERE id = 18446744073709551615;
UPDATE instrument SET tick = 0.005 WHERE symbol = 'ACME';
COMMIT;
DELETE FROM trade WHERE id = 2;
CREATE TABLE venue (code CHAR(4) PRIMARY KEY, city VARCHAR(50));
INSERT INTO venue VALUES ('XLON', 'London');
