CREATE DATABASE IF NOT EXISTS rides_db;
USE rides_db;
CREATE TABLE rides (
    vendor VARCHAR(10), picked_up DATETIME, location INT UNSIGNED, passengers TINYINT UNSIGNED, distance DOUBLE,
    fare DECIMAL(8,2), tip DECIMAL(6,2), paid_by ENUM('card','cash'), note JSON,
    PRIMARY KEY (vendor, picked_up, location)
);
-- While the programs run:
UPDATE rides SET fare = 19 WHERE location = 138;
DELETE FROM rides WHERE location = 7;
ALTER TABLE rides ADD COLUMN tolls DECIMAL(6,2);
INSERT INTO rides VALUES ('VTS', '2026-01-02 00:00:00', 1, 1, 2.25, 7.50, 1.00, 'card', NULL, 1.50);
