-- A store as it was written before messages to one player were bundled: made by that code.
PRAGMA user_version = 5;
BEGIN TRANSACTION;
CREATE TABLE bans (true_id TEXT PRIMARY KEY, until REAL, reason TEXT NOT NULL) WITHOUT ROWID;
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
INSERT INTO "keys" VALUES(1,'k1',1.0,char(1) || 'Rr',1,4);
INSERT INTO "keys" VALUES(2,'k2',2.0,'eve' || char(1) || 'B' || char(1) || 'A',2,5);
CREATE TABLE members (
        number INTEGER PRIMARY KEY,
        room TEXT NOT NULL,
        player INTEGER NOT NULL,
        UNIQUE (room, player));
INSERT INTO "members" VALUES(2,'r',2);
INSERT INTO "members" VALUES(3,'r',3);
CREATE TABLE messages (
        seq INTEGER PRIMARY KEY,
        mailbox INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        nonce INTEGER NOT NULL,
        ts REAL NOT NULL,
        body BLOB NOT NULL, skip TEXT, folded INTEGER,
        UNIQUE (mailbox, offset));
INSERT INTO "messages" VALUES(2,3,2,5,2.0,X'22646972656374203122',NULL,NULL);
INSERT INTO "messages" VALUES(3,2,1,4,1.0,X'22726F6F6D203122',NULL,1);
INSERT INTO "messages" VALUES(4,2,2,6,3.0,X'22726F6F6D203222',NULL,1);
INSERT INTO "messages" VALUES(5,2,3,7,4.0,X'22736B697070656422','s2',NULL);
INSERT INTO "messages" VALUES(6,3,3,6,3.0,X'22726F6F6D203222',NULL,1);
INSERT INTO "messages" VALUES(7,3,4,7,4.0,X'22736B697070656422',NULL,1);
INSERT INTO "messages" VALUES(8,3,5,8,5.0,X'',NULL,1);
INSERT INTO "messages" VALUES(9,1,4,9,6.0,X'22646972656374203222',NULL,NULL);
INSERT INTO "messages" VALUES(10,1,5,10,6.0,X'22646972656374203322',NULL,NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO "meta" VALUES('epoch','2d185d5a');
INSERT INTO "meta" VALUES('writes',27);
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
        reclaim INTEGER, hole_after INTEGER, hole_lost INTEGER, folded INTEGER NOT NULL DEFAULT 0);
INSERT INTO "players" VALUES(1,'ann',0,5,2,677,1,1,0,NULL,NULL,NULL,1);
INSERT INTO "players" VALUES(2,'bob',0,3,1,505,1,1,0,NULL,NULL,NULL,2);
INSERT INTO "players" VALUES(3,'eve' || char(1) || 'B' || char(1) || 'A',0,5,2,667,0,1,0,NULL,NULL,NULL,5);
CREATE TABLE revocations (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE room_messages (
        seq INTEGER PRIMARY KEY,
        nonce INTEGER NOT NULL,
        ts REAL NOT NULL,
        body BLOB NOT NULL,
        members BLOB NOT NULL);
INSERT INTO "room_messages" VALUES(2,6,3.0,X'22726F6F6D203222',X'490100000002000000030000000200000002000000030000000100000001000000010000005001000050010000FA010000');
INSERT INTO "room_messages" VALUES(3,7,4.0,X'22736B697070656422',X'49010000000300000003000000040000000100000001000000F9010000A3020000');
INSERT INTO "room_messages" VALUES(4,8,5.0,X'',X'49020000000300000004000000050000000100000002000000990200009B020000');
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
INSERT INTO "sessions" VALUES('s1',1,'Name','guest','pid1',0.0,0,0,1,1,2,'{}');
INSERT INTO "sessions" VALUES('s2',2,'Name','guest','pid2',0.0,0,0,1,1,3,'{}');
INSERT INTO "sessions" VALUES('s3',3,'Name','guest','pid3',0.0,0,0,1,1,4,'{}');
CREATE TABLE webhooks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        nonce INTEGER NOT NULL,
        type TEXT NOT NULL,
        true_id TEXT NOT NULL,
        ts REAL NOT NULL,
        data BLOB NOT NULL);
INSERT INTO "webhooks" VALUES(1,1,'session.new','ann',0.0,X'7B2273657373696F6E5F6964223A227331222C226E616D65223A224E616D65222C226D6574686F64223A226775657374222C2261747472696275746573223A7B7D7D');
INSERT INTO "webhooks" VALUES(2,2,'session.new','bob',0.0,X'7B2273657373696F6E5F6964223A227332222C226E616D65223A224E616D65222C226D6574686F64223A226775657374222C2261747472696275746573223A7B7D7D');
INSERT INTO "webhooks" VALUES(3,3,'session.new','eve' || char(1) || 'B' || char(1) || 'A',0.0,X'7B2273657373696F6E5F6964223A227333222C226E616D65223A224E616D65222C226D6574686F64223A226775657374222C2261747472696275746573223A7B7D7D');
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
CREATE INDEX messages_folded ON messages (ts) WHERE folded IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('webhooks',3);
INSERT INTO "sqlite_sequence" VALUES('players',3);
COMMIT;
