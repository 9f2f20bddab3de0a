// A Sparkplug B edge node G/N with device D, through sparkplug-client: node edge.js PORT
// It is told what to do by lines on stdin: a word, then JSON where the word needs it. What happens is said on stdout.
//   ddata [metric...]   ndata [metric...]   ddeath   skip (one sequence number is lost)   compress JSON (null, or options such as {"algorithm": "GZIP"})
const path = require("path");
const modules = path.join(__dirname, "../../../build/counterparts/sparkplug/node_modules");
const sparkplug = require(path.join(modules, "sparkplug-client"));

const client = sparkplug.newClient({
  serverUrl: "tcp://127.0.0.1:" + process.argv[2], username: "", password: "",
  groupId: "G", edgeNode: "N", clientId: "edge-N", version: "spBv1.0",
});
let options = {};
const T = 1700000000000;
const say = (...words) => console.log(words.join(" "));

const nodeMetrics = () => [
  { name: "Node Control/Rebirth", type: "Boolean", value: false, timestamp: T },
  { name: "up", type: "Int32", value: 1, alias: 1, timestamp: T + 1 },
];
const deviceMetrics = () => [
  { name: "temp", type: "Double", value: 20.5, alias: 7, timestamp: T + 2,
    properties: { engUnit: { type: "String", value: "°C" }, Quality: { type: "Int32", value: 192 } } },
  { name: "i8", type: "Int8", value: -5, timestamp: T + 3 },
  { name: "i32", type: "Int32", value: -2147483648, timestamp: T + 3 },
  { name: "i64", type: "Int64", value: -9007199254740991, timestamp: T + 3 },
  { name: "u32", type: "UInt32", value: 4294967295, timestamp: T + 3 },
  { name: "u64", type: "UInt64", value: 5, timestamp: T + 3 },
  { name: "float", type: "Float", value: 0.5, timestamp: T + 3 },
  { name: "flag", type: "Boolean", value: true, timestamp: T + 3 },
  { name: "when", type: "DateTime", value: T, timestamp: T + 3 },
  { name: "text", type: "String", value: "hé", timestamp: T + 3 },
  { name: "id", type: "UUID", value: "5e1f0a52-0000-4000-8000-000000000001", timestamp: T + 3 },
  { name: "raw", type: "Bytes", value: Buffer.from([1, 2, 255]), timestamp: T + 3 },
  { name: "table", type: "DataSet", timestamp: T + 3,
    value: { numOfColumns: 2, columns: ["a", "b"], types: ["Double", "String"], rows: [[1.5, "x"], [2.5, "y"]] } },
  { name: "nothing", type: "Int32", value: null, timestamp: T + 3 },
];
const births = () => {
  client.publishNodeBirth({ timestamp: T, metrics: nodeMetrics() }, options);
  client.publishDeviceBirth("D", { timestamp: T, metrics: deviceMetrics() }, options);
  say("born");
};

client.on("birth", births);
client.on("ncmd", payload => {
  for (const metric of payload.metrics) {
    say("ncmd", metric.name, metric.value);
    if (metric.name === "Node Control/Rebirth" && metric.value === true) births();
  }
});

let rest = "";
process.stdin.on("data", chunk => {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    const word = line.split(" ", 1)[0];
    const argument = line.length > word.length ? JSON.parse(line.slice(word.length)) : undefined;
    if (word === "ddata") client.publishDeviceData("D", { timestamp: T + 9000, metrics: argument }, options);
    if (word === "ndata") client.publishNodeData({ timestamp: T + 9000, metrics: argument }, options);
    if (word === "ddeath") client.publishDeviceDeath("D", { timestamp: T + 9500 }, options);
    if (word === "skip") client.seq += 1;
    if (word === "compress") options = argument ? { compress: true, ...argument } : {};
    say("done", word);
  }
});
