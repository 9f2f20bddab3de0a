/* Modbus devices made with modbus-serial and jsmodbus: `node server.js [--tls CERT KEY CA] [--line PATH]` listens on free ports of
 * 127.0.0.1, prints them as one JSON object, and serves until its input ends.
 *
 *   serial  modbus-serial, Modbus TCP          js    jsmodbus, Modbus TCP
 *   tls     jsmodbus behind Node's TLS, which asks for a client certificate
 *   udp     jsmodbus behind Node's datagrams   rtu   jsmodbus, RTU frames over TCP
 * With --line, modbus-serial is also an RTU device, unit 5, on that serial line.
 *
 * Each table has 10,000 addresses. Input registers hold their address, holding registers three times their address as 16 bits,
 * coils are set where the address can be divided by 3, discrete inputs by 5. Holding register 0 of modbus-serial counts its
 * requests, 100 and 101 are -1234.5677490234375 as float32, and it takes a new value of any of them. modbus-serial says what it is (43/14). Of modbus-serial unit 6 is late (300 ms), unit 7 is busy (exception 6) for every first and second of three requests,
 * unit 8 is out of a gateway's reach (exception 11), unit 9 never answers, and what is beyond the tables is exception 2.
 */
"use strict";
const dgram = require("dgram");
const fs = require("fs");
const net = require("net");
const path = require("path");
const tls = require("tls");
const modules = path.join(__dirname, "../../../build/counterparts/modbus-node/node_modules");
const { ServerTCP, ServerSerial } = require(path.join(modules, "modbus-serial"));
const modbus = require(path.join(modules, "jsmodbus"));

const SIZE = 10000;
const host = "127.0.0.1";
const option = (name, count) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? null : process.argv.slice(at + 1, at + 1 + count);
};

let requests = 0;
let asked7 = 0;

/* What modbus-serial asks for: many values at once, or one. */
function answer(address, count, unit, done) {
  requests++;
  if (unit === 9) return;
  if (unit === 8) return done({ modbusErrorCode: 11 });
  if (unit === 7 && asked7++ % 3 < 2) return done({ modbusErrorCode: 6 });
  if (address + count > SIZE) return done({ modbusErrorCode: 2 });
  if (unit === 6) setTimeout(() => done(null), 300);
  else done(null);
}
const many = value => (address, count, unit, done) =>
  answer(address, count, unit, error => done(error, error ? [] : Array.from({ length: count }, (_, i) => value(address + i))));
const one = value => (address, unit, done) => answer(address, 1, unit, error => done(error, error ? 0 : value(address)));
const written = { 100: 0xc49a, 101: 0x522b };
const holding = address => (address === 0 ? requests & 0xffff : written[address] ?? ((address * 3) & 0xffff));
const input = address => address & 0xffff;
const vector = {
  getMultipleHoldingRegisters: many(holding),
  getMultipleInputRegisters: many(input),
  getHoldingRegister: one(holding),
  getInputRegister: one(input),
  setRegister: (address, value, unit, done) => {
    written[address] = value;
    done(null);
  },
  getCoil: one(address => address % 3 === 0),
  getDiscreteInput: one(address => address % 5 === 0),
  readDeviceIdentification: () => ({ 0: "Lab\nInc", 1: "PM-3000", 2: "V2.11" })
};

/* The same as the buffers that jsmodbus serves from. */
function tables() {
  const made = {
    coils: Buffer.alloc(SIZE / 8),
    discrete: Buffer.alloc(SIZE / 8),
    holding: Buffer.alloc(2 * SIZE),
    input: Buffer.alloc(2 * SIZE)
  };
  for (let i = 0; i < SIZE; i++) {
    if (i % 3 === 0) made.coils[i >> 3] |= 1 << (i & 7);
    if (i % 5 === 0) made.discrete[i >> 3] |= 1 << (i & 7);
    made.holding.writeUInt16BE((i * 3) & 0xffff, 2 * i);
    made.input.writeUInt16BE(i, 2 * i);
  }
  return made;
}

const listening = (server, ...at) => new Promise(done => server.listen(...at, () => done(server.address().port)));

async function main() {
  const ports = {};
  const probe = net.createServer(); // modbus-serial takes no port 0
  const free = await listening(probe, 0, host);
  await new Promise(done => probe.close(done));
  const serial = new ServerTCP(vector, { host, port: free, debug: false, unitID: 255 });
  ports.serial = await new Promise(done => serial.on("initialized", () => done(free)));
  serial.on("socketError", () => {});

  const plain = net.createServer();
  new modbus.server.TCP(plain, tables());
  plain.on("connection", socket => socket.on("error", () => {}));
  ports.js = await listening(plain, 0, host);

  const rtu = net.createServer(socket => {
    socket.on("error", () => {});
    new modbus.server.RTU(socket, tables());
  });
  ports.rtu = await listening(rtu, 0, host);

  const secrets = option("--tls", 3);
  if (secrets) {
    const [cert, key, ca] = secrets.map(file => fs.readFileSync(file));
    const secure = tls.createServer({ cert, key, ca, requestCert: true, rejectUnauthorized: true }, outside => {
      const inside = net.connect(ports.js, host);
      for (const [one, other] of [[outside, inside], [inside, outside]]) {
        one.on("error", () => other.destroy());
        one.pipe(other);
      }
    });
    ports.tls = await listening(secure, 0, host);
  }

  const datagrams = dgram.createSocket("udp4");
  datagrams.on("message", (request, from) => {
    const inside = net.connect(ports.js, host, () => inside.write(request));
    inside.on("error", () => {});
    inside.once("data", reply => {
      datagrams.send(reply, from.port, from.address);
      inside.destroy();
    });
  });
  ports.udp = await new Promise(done => datagrams.bind(0, host, () => done(datagrams.address().port)));

  const line = option("--line", 1);
  if (line) {
    const device = new ServerSerial(vector, { path: line[0], baudRate: 115200, unitID: 5, interval: 5 });
    await new Promise(done => device.on("initialized", done));
  }
  console.log(JSON.stringify(ports));
}

process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
main();
