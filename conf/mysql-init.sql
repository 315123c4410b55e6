-- Users of the containers' MySQL, each with no more than it needs. For a laptop: the passwords stand here for all to see.
-- In a name here _ stands for any character unless it is escaped.
CREATE USER 'updater'@'%' IDENTIFIED BY 'updater-password';
GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON `buy\_online\_db`.* TO 'updater'@'%';
CREATE USER 'cdc'@'%' IDENTIFIED BY 'cdc-password';
GRANT SELECT ON `buy\_online\_db`.* TO 'cdc'@'%';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'cdc'@'%';
CREATE USER 'verify'@'%' IDENTIFIED BY 'verify-password';
GRANT SELECT ON `buy\_online\_db`.* TO 'verify'@'%';
GRANT REPLICATION CLIENT ON *.* TO 'verify'@'%';
