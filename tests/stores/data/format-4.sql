-- A store as it was written before messages to rooms had a log: made by that code.
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE bans (true_id TEXT PRIMARY KEY, until REAL, reason TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "bans" VALUES('mallory',NULL,'rude');
CREATE TABLE dead_webhooks (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        given_up REAL NOT NULL,
        reason TEXT NOT NULL,
        seq INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        type TEXT NOT NULL,
        true_id TEXT NOT NULL,
        ts REAL NOT NULL,
        data BLOB NOT NULL);
CREATE TABLE keys (
        sender INTEGER NOT NULL,
        key TEXT NOT NULL,
        ts REAL NOT NULL,
        target TEXT NOT NULL,
        offset INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        UNIQUE (sender, key));
INSERT INTO "keys" VALUES(2,'k1',1.0,'ann',1,3);
INSERT INTO "keys" VALUES(2,'k2',2.0,char(1) || 'Rr',1,4);
INSERT INTO "keys" VALUES(1,'k3',6.0,char(1) || 'Rr',0,8);
CREATE TABLE members (
        number INTEGER PRIMARY KEY,
        room TEXT NOT NULL,
        player INTEGER NOT NULL,
        UNIQUE (room, player));
INSERT INTO "members" VALUES(1,'r',1);
INSERT INTO "members" VALUES(2,'r',2);
INSERT INTO "members" VALUES(3,'r',3);
INSERT INTO "members" VALUES(4,'other' || char(1) || 'B',3);
CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        mailbox INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        ts REAL NOT NULL,
        body BLOB NOT NULL, skip TEXT,
        UNIQUE (mailbox, offset));
INSERT INTO "messages" VALUES(1,1,1,3,1.0,X'22646972656374203122',NULL);
INSERT INTO "messages" VALUES(2,1,2,4,2.0,X'22726F6F6D203122',NULL);
INSERT INTO "messages" VALUES(3,2,1,4,2.0,X'22726F6F6D203122','s2');
INSERT INTO "messages" VALUES(4,3,1,4,2.0,X'22726F6F6D203122',NULL);
INSERT INTO "messages" VALUES(5,3,2,5,3.0,X'22646972656374203222',NULL);
INSERT INTO "messages" VALUES(6,1,3,6,4.0,X'',NULL);
INSERT INTO "messages" VALUES(7,2,2,6,4.0,X'',NULL);
INSERT INTO "messages" VALUES(8,3,3,6,4.0,X'',NULL);
INSERT INTO "messages" VALUES(9,1,4,7,5.0,X'22726F6F6D203322',NULL);
INSERT INTO "messages" VALUES(10,2,3,7,5.0,X'22726F6F6D203322',NULL);
INSERT INTO "messages" VALUES(11,3,4,7,5.0,X'22726F6F6D203322',NULL);
INSERT INTO "messages" VALUES(12,2,4,8,6.0,X'22726F6F6D203422',NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO "meta" VALUES('epoch','56719b5e');
INSERT INTO "meta" VALUES('writes',23);
CREATE TABLE online (true_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE players (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        true_id TEXT NOT NULL UNIQUE,
        permanent INTEGER NOT NULL,
        head INTEGER NOT NULL,
        first INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        keys INTEGER NOT NULL,
        sessions INTEGER NOT NULL,
        confirmed INTEGER NOT NULL,
        reclaim INTEGER, hole_after INTEGER, hole_lost INTEGER);
INSERT INTO "players" VALUES(1,'ann',0,4,1,666,1,1,0,NULL,4,1);
INSERT INTO "players" VALUES(2,'bob',0,4,1,664,2,1,0,NULL,NULL,NULL);
INSERT INTO "players" VALUES(3,'eve' || char(1) || 'B' || char(1) || 'A',0,4,1,666,0,0,0,NULL,4,1);
INSERT INTO "players" VALUES(4,'zoe',1,0,1,0,0,0,0,NULL,NULL,NULL);
INSERT INTO "players" VALUES(5,'mallory',0,0,1,0,0,0,0,NULL,NULL,NULL);
CREATE TABLE revocations (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (kind, id)) WITHOUT ROWID;
INSERT INTO "revocations" VALUES('session','s9',7.0);
CREATE TABLE sessions (
        id TEXT NOT NULL UNIQUE,
        player INTEGER NOT NULL,
        name TEXT NOT NULL,
        method TEXT NOT NULL,
        pid TEXT NOT NULL,
        last_seen REAL NOT NULL,
        start INTEGER NOT NULL,
        confirmed INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        opened INTEGER NOT NULL,
        idle INTEGER, attributes TEXT NOT NULL DEFAULT '{}');
INSERT INTO "sessions" VALUES('s1',1,'Name','guest','pid1',5.0,0,0,1,1,2,'{}');
INSERT INTO "sessions" VALUES('s2',2,'Name','guest','pid2',6.0,0,0,1,1,3,'{}');
CREATE TABLE webhooks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        nonce INTEGER NOT NULL,
        type TEXT NOT NULL,
        true_id TEXT NOT NULL,
        ts REAL NOT NULL,
        data BLOB NOT NULL);
INSERT INTO "webhooks" VALUES(1,1,'session.new','ann',5.0,X'7B2273657373696F6E5F6964223A227331222C226E616D65223A224E616D65222C226D6574686F64223A226775657374222C2261747472696275746573223A7B7D7D');
INSERT INTO "webhooks" VALUES(2,2,'session.new','bob',6.0,X'7B2273657373696F6E5F6964223A227332222C226E616D65223A224E616D65222C226D6574686F64223A226775657374222C2261747472696275746573223A7B7D7D');
CREATE INDEX players_reclaim ON players (reclaim) WHERE reclaim IS NOT NULL;
CREATE INDEX players_empty ON players (id)
        WHERE permanent = 0 AND sessions = 0 AND keys = 0 AND first > head;
CREATE INDEX keys_ts ON keys (ts);
CREATE INDEX keys_sender ON keys (sender, ts);
CREATE INDEX sessions_player ON sessions (player);
CREATE INDEX sessions_idle ON sessions (idle);
CREATE INDEX sessions_seen ON sessions (last_seen) WHERE idle IS NOT NULL;
CREATE INDEX revocations_at ON revocations (at);
CREATE INDEX members_player ON members (player);
CREATE INDEX messages_skip ON messages (mailbox, skip) WHERE skip IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('players',5);
INSERT INTO "sqlite_sequence" VALUES('webhooks',2);
COMMIT;
