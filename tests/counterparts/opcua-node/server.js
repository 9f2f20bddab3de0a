// An OPC UA server made with node-opcua: node server.js PORT PKI-FOLDER [LIMIT [ITEMS [NODESET]]]. Listens on 127.0.0.1 until its input ends.
// Policies None, Basic256Sha256, Aes128_Sha256_RsaOaep and Aes256_Sha256_RsaPss; anonymous, and user1 with secret1.
// LIMIT is what the server states, and enforces, for nodes per read, per browse and monitored items per call (0: none);
// a subscription takes ITEMS items at most. NODESET is a further NodeSet2 file to serve.
// Each line of input is a command in JSON: {"set": [NAME, VALUE]}, {"bad": [NAME]}, {"burst": [NAME, FROM, TO, MS]},
// {"add": NAME} and {"remove": NAME} of a variable in Extra, which the server reports as a change of its model,
// {"event": [SEVERITY, MESSAGE]} of the server's object. Level in Extra has a limit alarm: above 80 high, above 95 high high.
// {"forget": NAME} disables what clients have subscribed to of a variable, and says nothing of it.
// node-opcua samples every 50 ms at most, so a burst with a shorter pause is not seen value by value.
const path = require("node:path");
const readline = require("node:readline");
const modules = process.env.NODE_OPCUA || path.join(__dirname, "../../../build/counterparts/opcua-node");
const o = require(path.join(modules, "node_modules/node-opcua"));

const [port, pki] = [Number(process.argv[2]), process.argv[3]];
const [limit, items] = [Number(process.argv[4] || 0), Number(process.argv[5] || 0)];

(async () => {
  const certificates = new o.OPCUACertificateManager({ rootFolder: pki, automaticallyAcceptUnknownCertificate: true });
  await certificates.initialize();
  const server = new o.OPCUAServer({
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    alternateHostname: ["127.0.0.1", "localhost"],
    port,
    resourcePath: "/lab",
    nodeset_filename: [o.nodesets.standard, path.join(__dirname, "types.xml"), ...process.argv.slice(6)],
    serverCertificateManager: certificates,
    securityPolicies: ["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"].map((p) => o.SecurityPolicy[p]),
    securityModes: [o.MessageSecurityMode.None, o.MessageSecurityMode.Sign, o.MessageSecurityMode.SignAndEncrypt],
    userManager: { isValidUser: (user, password) => user === "user1" && password === "secret1" },
    allowAnonymous: true,
    serverCapabilities: {
      ...(limit && { operationLimits: { maxNodesPerRead: limit, maxNodesPerBrowse: limit, maxMonitoredItemsPerCall: limit } }),
      ...(items && { maxMonitoredItemsPerSubscription: items }),
    },
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  const own = space.getOwnNamespace();
  const types = space.getNamespaceIndex("http://lab.test/types");
  const device = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Device", nodeId: "s=Device" });
  const kinds = {};
  const nodes = {};
  const add = (name, dataType, value, more = {}) => {
    kinds[name] = value.dataType;
    nodes[name] = own.addVariable({
      componentOf: device, browseName: name, nodeId: `s=${name}`, dataType, value, minimumSamplingInterval: 0, ...more,
    });
  };
  add("Double", "Double", { dataType: "Double", value: 1.5 });
  add("Int32", "Int32", { dataType: "Int32", value: -7 });
  add("UInt64", "UInt64", { dataType: "UInt64", arrayType: o.VariantArrayType.Scalar, value: [0x80000000, 5] });
  add("Text", "String", { dataType: "String", value: "grün" });
  add("Flag", "Boolean", { dataType: "Boolean", value: true });
  add("Array", "Double", { dataType: "Double", arrayType: o.VariantArrayType.Array, value: new Float64Array([1, 2, 3]) }, { valueRank: 1 });
  add("Matrix", "Int32", { dataType: "Int32", arrayType: o.VariantArrayType.Matrix, dimensions: [2, 3], value: new Int32Array([1, 2, 3, 4, 5, 6]) }, { valueRank: 2, arrayDimensions: [2, 3] });
  add("State", space.findNode(`ns=${types};i=3002`).nodeId, { dataType: "Int32", value: 1 });
  const job = space.findNode(`ns=${types};i=3001`);
  const point = space.findNode(`ns=${types};i=3000`);
  const at = (x, y) => space.constructExtensionObject(point, { x, y });
  const value = space.constructExtensionObject(job, { order: "A-1", target: at(1, 2), path: [at(3, 4), at(5, 6)], state: 2, count: 9 });
  add("Job", job.nodeId, { dataType: "ExtensionObject", value });
  // of a type that no variable names, so that a client learns it when the value comes
  const lone = space.constructExtensionObject(space.findNode(`ns=${types};i=3003`), { since: new Date(0), length: 2.5 });
  add("Anything", "Structure", { dataType: "ExtensionObject", value: lone });
  add("Many", job.nodeId, { dataType: "ExtensionObject", arrayType: o.VariantArrayType.Array, value: [value] }, { valueRank: 1 });
  space.installHistoricalDataNode(nodes.Int32, { maxOnlineValues: 10000 });
  space.installAlarmsAndConditionsService();
  const extra = own.addObject({
    organizedBy: space.rootFolder.objects, browseName: "Extra", nodeId: "s=Extra", notifierOf: space.rootFolder.objects.server, eventNotifier: 1, nodeVersion: "1",
  });
  kinds.Analog = kinds.Level = "Double";
  nodes.Analog = own.addAnalogDataItem({
    componentOf: extra, browseName: "Analog", nodeId: "s=Analog", dataType: "Double", value: { dataType: "Double", value: 10 },
    engineeringUnitsRange: { low: 0, high: 200 }, engineeringUnits: o.standardUnits.degree_celsius, minimumSamplingInterval: 0,
  });
  nodes.Level = own.addVariable({
    componentOf: extra, browseName: "Level", nodeId: "s=Level", dataType: "Double", value: { dataType: "Double", value: 50 },
    eventSourceOf: extra, minimumSamplingInterval: 0,
  });
  own.instantiateNonExclusiveLimitAlarm("NonExclusiveLimitAlarmType", {
    browseName: "LevelAlarm", conditionName: "LevelAlarm", nodeId: "s=LevelAlarm", componentOf: extra, conditionSource: nodes.Level, inputNode: nodes.Level,
    optionals: ["ConfirmedState", "Confirm"], lowLowLimit: -20, lowLimit: -10, highLimit: 80, highHighLimit: 95,
  });
  await server.start();

  const set = (name, to) => nodes[name].setValueFromSource({ dataType: kinds[name], value: to });
  const burst = (name, from, to, pause) => {
    set(name, from);
    if (from + 1 < to) setTimeout(burst, pause, name, from + 1, to, pause);
  };
  const grow = (name) => {
    kinds[name] = "Double";
    nodes[name] = own.addVariable({
      componentOf: extra, browseName: name, nodeId: `s=${name}`, dataType: "Double", value: { dataType: "Double", value: 1 }, minimumSamplingInterval: 0,
    });
  };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", (line) => {
    const command = JSON.parse(line);
    if (command.set) set(...command.set);
    if (command.bad) nodes[command.bad[0]].setValueFromSource({ dataType: "Null" }, o.StatusCodes.BadSensorFailure);
    if (command.add) grow(command.add);
    if (command.remove) space.deleteNode(nodes[command.remove]);
    if (command.forget) {
      for (const session of Object.values(server.engine._sessions))
        for (const subscription of session.publishEngine.subscriptions)
          for (const item of subscription.monitoredItems.values())
            if (item.node === nodes[command.forget]) item.setMonitoringMode(o.MonitoringMode.Disabled);
      console.log("forgotten", command.forget);
    }
    if (command.event) {
      const [severity, message] = command.event;
      space.rootFolder.objects.server.raiseEvent("BaseEventType", {
        message: { dataType: "LocalizedText", value: { text: message } }, severity: { dataType: "UInt16", value: severity },
      });
    }
    if (command.burst) burst(...command.burst);
  });
  lines.on("close", () => process.exit(0));
  console.log("ready", server.getEndpointUrl());
})();
