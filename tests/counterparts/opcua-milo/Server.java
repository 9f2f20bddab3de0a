// An OPC UA server made with Eclipse Milo. Listens on 127.0.0.1 until its input ends:
//
//     java -cp 'BUILD/classes:BUILD/libraries/*' Server PORT FOLDER [HOST]      BUILD is build/counterparts/opcua-milo
//
// The endpoint is opc.tcp://127.0.0.1:PORT/milo. HOST is the host that it announces instead, which nobody can reach.
// All six security policies, None too, with Sign and SignAndEncrypt; anonymous, user1 with secret1, and X.509.
//
// FOLDER/own/certificate.pem and key.pem (PKCS 8), the certificate first and its issuers after it, are the server's own; when they
// are missing it makes them. FOLDER/pki holds its trust list: an application lies in pki/trusted/certs/*.der, or is refused and
// lands in pki/rejected. A user certificate is let in when it lies in FOLDER/users/*.der.
//
// Namespace urn:milo.test:lab, folder Lab: Double, Float, Int32, Text, Flag, Array (of three doubles); Counter, a double that counts
// upwards ten times a second; and Kept, a double whose history can be read, 100 values an answer and then a continuation point.
// The Server object reports events.
//
// Each line of input is a command:
//     set NAME NUMBER             a value of Double, Float, Int32 or Kept
//     bad NAME                    BadSensorFailure without a value
//     keep FROM TO EVERY COUNT    doubles FROM … TO into the history of Kept, each EVERY ms, the last COUNT ms ago
//     event SEVERITY MESSAGE      a BaseEvent of the Server object
//     alarm ACTIVE MESSAGE        an event of the AlarmCondition Overfilled of the Server object, true or false
//     level NUMBER                ServiceLevel, 0 to 255
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.eclipse.milo.opcua.sdk.core.AccessLevel;
import org.eclipse.milo.opcua.sdk.core.Reference;
import org.eclipse.milo.opcua.sdk.server.OpcUaServer;
import org.eclipse.milo.opcua.sdk.server.api.DataItem;
import org.eclipse.milo.opcua.sdk.server.api.ManagedNamespaceWithLifecycle;
import org.eclipse.milo.opcua.sdk.server.api.MonitoredItem;
import org.eclipse.milo.opcua.sdk.server.api.config.OpcUaServerConfig;
import org.eclipse.milo.opcua.sdk.server.identity.CompositeValidator;
import org.eclipse.milo.opcua.sdk.server.identity.UsernameIdentityValidator;
import org.eclipse.milo.opcua.sdk.server.identity.X509IdentityValidator;
import org.eclipse.milo.opcua.sdk.server.model.nodes.objects.AlarmConditionTypeNode;
import org.eclipse.milo.opcua.sdk.server.model.nodes.objects.BaseEventTypeNode;
import org.eclipse.milo.opcua.sdk.server.model.nodes.objects.ServerTypeNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaFolderNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaVariableNode;
import org.eclipse.milo.opcua.sdk.server.util.SubscriptionModel;
import org.eclipse.milo.opcua.stack.core.Identifiers;
import org.eclipse.milo.opcua.stack.core.StatusCodes;
import org.eclipse.milo.opcua.stack.core.UaException;
import org.eclipse.milo.opcua.stack.core.security.DefaultCertificateManager;
import org.eclipse.milo.opcua.stack.core.security.DefaultTrustListManager;
import org.eclipse.milo.opcua.stack.core.security.SecurityPolicy;
import org.eclipse.milo.opcua.stack.core.transport.TransportProfile;
import org.eclipse.milo.opcua.stack.core.types.builtin.ByteString;
import org.eclipse.milo.opcua.stack.core.types.builtin.DataValue;
import org.eclipse.milo.opcua.stack.core.types.builtin.DateTime;
import org.eclipse.milo.opcua.stack.core.types.builtin.ExtensionObject;
import org.eclipse.milo.opcua.stack.core.types.builtin.LocalizedText;
import org.eclipse.milo.opcua.stack.core.types.builtin.NodeId;
import org.eclipse.milo.opcua.stack.core.types.builtin.QualifiedName;
import org.eclipse.milo.opcua.stack.core.types.builtin.StatusCode;
import org.eclipse.milo.opcua.stack.core.types.builtin.Variant;
import org.eclipse.milo.opcua.stack.core.types.enumerated.MessageSecurityMode;
import org.eclipse.milo.opcua.stack.core.types.enumerated.TimestampsToReturn;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryData;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadDetails;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadResult;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadValueId;
import org.eclipse.milo.opcua.stack.core.types.structured.ReadRawModifiedDetails;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateBuilder;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateGenerator;
import org.eclipse.milo.opcua.stack.server.EndpointConfiguration;
import org.eclipse.milo.opcua.stack.server.security.DefaultServerCertificateValidator;

import static org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.Unsigned.ubyte;
import static org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.Unsigned.ushort;

public class Server {
    static final String URI = "urn:milo.test:server";
    static final int PER_ANSWER = 100; // values of history

    public static void main(String[] args) throws Exception {
        Security.addProvider(new BouncyCastleProvider()); // Aes256_Sha256_RsaPss needs it
        int port = Integer.parseInt(args[0]);
        Path folder = Path.of(args[1]);
        OpcUaServer server = new OpcUaServer(config(port, folder, args.length > 2 ? args[2] : "127.0.0.1"));
        Lab lab = new Lab(server);
        lab.startup();
        server.startup().get();
        System.out.println("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            lab.command(line.split(" ", 3));
        }
        System.exit(0);
    }

    static OpcUaServerConfig config(int port, Path folder, String host) throws Exception {
        Path own = folder.resolve("own");
        if (!Files.exists(own.resolve("certificate.pem"))) {
            make(own);
        }
        X509Certificate[] chain = certificates(own.resolve("certificate.pem")).toArray(new X509Certificate[0]);
        KeyPair pair = new KeyPair(chain[0].getPublicKey(), key(own.resolve("key.pem")));
        DefaultTrustListManager trust = new DefaultTrustListManager(folder.resolve("pki").toFile());
        return OpcUaServerConfig.builder()
            .setApplicationUri(URI)
            .setApplicationName(LocalizedText.english("Milo in a test"))
            .setProductUri("urn:milo.test:product")
            .setEndpoints(endpoints(port, host, chain[0]))
            .setCertificateManager(new DefaultCertificateManager(pair, chain))
            .setTrustListManager(trust)
            .setCertificateValidator(new DefaultServerCertificateValidator(trust))
            .setIdentityValidator(new CompositeValidator<Object>(List.of(
                cast(new UsernameIdentityValidator(
                    true, user -> user.getUsername().equals("user1") && user.getPassword().equals("secret1"))),
                cast(new X509IdentityValidator(user -> isUser(folder.resolve("users"), user))))))
            .build();
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static org.eclipse.milo.opcua.sdk.server.identity.IdentityValidator<Object> cast(
        org.eclipse.milo.opcua.sdk.server.identity.IdentityValidator validator) {
        return validator;
    }

    static Set<EndpointConfiguration> endpoints(int port, String host, X509Certificate certificate) {
        Set<EndpointConfiguration> endpoints = new LinkedHashSet<>();
        for (SecurityPolicy policy : SecurityPolicy.values()) {
            for (MessageSecurityMode mode : MessageSecurityMode.values()) {
                boolean plain = policy == SecurityPolicy.None;
                if (mode == MessageSecurityMode.Invalid || plain != (mode == MessageSecurityMode.None)) {
                    continue;
                }
                endpoints.add(EndpointConfiguration.newBuilder()
                    .setTransportProfile(TransportProfile.TCP_UASC_UABINARY)
                    .setBindAddress("127.0.0.1")
                    .setBindPort(port)
                    .setHostname(host)
                    .setPath("/milo")
                    .setCertificate(certificate)
                    .setSecurityPolicy(policy)
                    .setSecurityMode(mode)
                    .addTokenPolicies(
                        OpcUaServerConfig.USER_TOKEN_POLICY_ANONYMOUS,
                        OpcUaServerConfig.USER_TOKEN_POLICY_USERNAME,
                        OpcUaServerConfig.USER_TOKEN_POLICY_X509)
                    .build());
            }
        }
        return endpoints;
    }

    static void make(Path own) throws Exception {
        KeyPair pair = SelfSignedCertificateGenerator.generateRsaKeyPair(2048);
        X509Certificate certificate = new SelfSignedCertificateBuilder(pair)
            .setCommonName("Milo in a test").setApplicationUri(URI).addDnsName("localhost").addIpAddress("127.0.0.1").build();
        Files.createDirectories(own);
        Files.writeString(own.resolve("key.pem"), pem("PRIVATE KEY", pair.getPrivate().getEncoded()));
        Files.writeString(own.resolve("certificate.pem"), pem("CERTIFICATE", certificate.getEncoded()));
    }

    static String pem(String what, byte[] data) {
        String body = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(data);
        return "-----BEGIN " + what + "-----\n" + body + "\n-----END " + what + "-----\n";
    }

    static PrivateKey key(Path file) throws Exception {
        byte[] der = Base64.getMimeDecoder().decode(Files.readString(file).replaceAll("-----[A-Z ]+-----", ""));
        return KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(der));
    }

    static List<X509Certificate> certificates(Path file) throws Exception {
        List<X509Certificate> found = new ArrayList<>();
        ByteArrayInputStream data = new ByteArrayInputStream(Files.readAllBytes(file));
        CertificateFactory.getInstance("X.509").generateCertificates(data).forEach(one -> found.add((X509Certificate) one));
        return found;
    }

    static boolean isUser(Path users, X509Certificate user) {
        try (var files = Files.newDirectoryStream(users, "*.der")) {
            for (Path file : files) {
                if (certificates(file).contains(user)) {
                    return true;
                }
            }
        } catch (Exception absent) {
            return false;
        }
        return false;
    }

    static class Lab extends ManagedNamespaceWithLifecycle {
        private final Map<String, UaVariableNode> nodes = new HashMap<>();
        private final List<DataValue> history = new ArrayList<>();
        private double count;

        Lab(OpcUaServer server) {
            super(server, "urn:milo.test:lab");
            SubscriptionModel subscriptions = new SubscriptionModel(server, this);
            getLifecycleManager().addLifecycle(subscriptions);
            getLifecycleManager().addStartupTask(this::fill);
            this.subscriptions = subscriptions;
        }

        private final SubscriptionModel subscriptions;

        private void fill() {
            UaFolderNode folder = new UaFolderNode(
                getNodeContext(), newNodeId("Lab"), newQualifiedName("Lab"), LocalizedText.english("Lab"));
            getNodeManager().addNode(folder);
            folder.addReference(
                new Reference(folder.getNodeId(), Identifiers.Organizes, Identifiers.ObjectsFolder.expanded(), false));
            add(folder, "Double", Identifiers.Double, 1.5, false);
            add(folder, "Float", Identifiers.Float, 2.5f, false);
            add(folder, "Int32", Identifiers.Int32, -7, false);
            add(folder, "Text", Identifiers.String, "grün", false);
            add(folder, "Flag", Identifiers.Boolean, true, false);
            add(folder, "Array", Identifiers.Double, new Double[] {1.0, 2.0, 3.0}, false);
            add(folder, "Counter", Identifiers.Double, 0.0, false);
            add(folder, "Kept", Identifiers.Double, 0.0, true);
            server().setEventNotifier(ubyte(1));
            getServer().getScheduledExecutorService()
                .scheduleAtFixedRate(() -> set("Counter", ++count), 100, 100, TimeUnit.MILLISECONDS);
        }

        private void add(UaFolderNode folder, String name, NodeId type, Object value, boolean kept) {
            Set<AccessLevel> access = kept ? AccessLevel.HISTORY_READ_ONLY : AccessLevel.READ_ONLY;
            Set<AccessLevel> all = new LinkedHashSet<>(access);
            all.add(AccessLevel.CurrentRead);
            UaVariableNode node = new UaVariableNode.UaVariableNodeBuilder(getNodeContext())
                .setNodeId(newNodeId(name))
                .setBrowseName(newQualifiedName(name))
                .setDisplayName(LocalizedText.english(name))
                .setDataType(type)
                .setValueRank(value instanceof Double[] ? 1 : -1)
                .setAccessLevel(all)
                .setUserAccessLevel(all)
                .setHistorizing(kept)
                .setMinimumSamplingInterval(0.0)
                .setTypeDefinition(Identifiers.BaseDataVariableType)
                .build();
            nodes.put(name, node);
            set(name, value);
            getNodeManager().addNode(node);
            folder.addOrganizes(node);
        }

        private void set(String name, Object value) {
            DataValue data = new DataValue(new Variant(value));
            nodes.get(name).setValue(data);
            if (name.equals("Kept")) {
                keep(data);
            }
        }

        private void keep(DataValue data) {
            synchronized (history) {
                history.add(data);
            }
        }

        private ServerTypeNode server() {
            return (ServerTypeNode) getServer().getAddressSpaceManager().getManagedNode(Identifiers.Server).orElseThrow();
        }

        void command(String[] words) throws UaException {
            switch (words[0]) {
                case "set":
                    double number = Double.parseDouble(words[2]);
                    set(words[1], words[1].equals("Int32") ? (Object) (int) number
                        : words[1].equals("Float") ? (Object) (float) number : (Object) number);
                    break;
                case "bad":
                    nodes.get(words[1]).setValue(new DataValue(Variant.NULL_VALUE, new StatusCode(StatusCodes.Bad_SensorFailure)));
                    break;
                case "keep":
                    String[] rest = words[2].split(" ");
                    long first = Long.parseLong(words[1]), last = Long.parseLong(rest[0]), every = Long.parseLong(rest[1]);
                    Instant end = Instant.now().minusMillis(Long.parseLong(rest[2]));
                    for (long value = first; value <= last; value++) {
                        DateTime at = new DateTime(end.minusMillis((last - value) * every));
                        keep(new DataValue(new Variant((double) value), StatusCode.GOOD, at, at));
                    }
                    break;
                case "event":
                    event(Integer.parseInt(words[1]), words[2]);
                    break;
                case "alarm":
                    alarm(Boolean.parseBoolean(words[1]), words[2]);
                    break;
                case "level":
                    server().setServiceLevel(ubyte(Integer.parseInt(words[1])));
                    break;
                default:
                    throw new IllegalArgumentException(words[0]);
            }
        }

        private void event(int severity, String message) throws UaException {
            post(getServer().getEventFactory().createEvent(newNodeId(UUID.randomUUID()), Identifiers.BaseEventType),
                Identifiers.BaseEventType, severity, message);
        }

        private void alarm(boolean active, String message) throws UaException {
            AlarmConditionTypeNode alarm = (AlarmConditionTypeNode)
                getServer().getEventFactory().createEvent(newNodeId("Overfilled"), Identifiers.AlarmConditionType);
            alarm.setConditionName("Overfilled");
            alarm.setRetain(active);
            alarm.getEnabledStateNode().setId(true);
            alarm.getAckedStateNode().setId(false);
            alarm.getActiveStateNode().setId(active);
            alarm.setActiveState(LocalizedText.english(active ? "Active" : "Inactive"));
            post(alarm, Identifiers.AlarmConditionType, 700, message);
        }

        private void post(BaseEventTypeNode event, NodeId type, int severity, String message) throws UaException {
            UUID id = UUID.randomUUID();
            event.setBrowseName(new QualifiedName(1, "event"));
            event.setDisplayName(LocalizedText.english("event"));
            event.setEventId(ByteString.of(
                ByteBuffer.allocate(16).putLong(id.getMostSignificantBits()).putLong(id.getLeastSignificantBits()).array()));
            event.setEventType(type);
            event.setSourceNode(Identifiers.Server);
            event.setSourceName("Server");
            event.setTime(DateTime.now());
            event.setReceiveTime(DateTime.now());
            event.setMessage(LocalizedText.english(message));
            event.setSeverity(ushort(severity));
            getServer().getEventBus().post(event);
            event.delete();
        }

        @Override
        public void historyRead(
            HistoryReadContext context, HistoryReadDetails details, TimestampsToReturn timestamps, List<HistoryReadValueId> wanted) {
            List<HistoryReadResult> results = new ArrayList<>();
            for (HistoryReadValueId one : wanted) {
                boolean there = one.getNodeId().equals(nodes.get("Kept").getNodeId()) && details instanceof ReadRawModifiedDetails;
                results.add(there ? raw((ReadRawModifiedDetails) details, one.getContinuationPoint())
                    : new HistoryReadResult(new StatusCode(StatusCodes.Bad_HistoryOperationUnsupported), null, null));
            }
            context.success(results);
        }

        // A continuation point is how many values were given before.
        private HistoryReadResult raw(ReadRawModifiedDetails details, ByteString point) {
            long begin = details.getStartTime().getUtcTime(), end = details.getEndTime().getUtcTime();
            List<DataValue> found = new ArrayList<>();
            synchronized (history) {
                for (DataValue value : history) {
                    long at = value.getSourceTime().getUtcTime();
                    if (at >= begin && at < end) {
                        found.add(value);
                    }
                }
            }
            found.sort((a, b) -> Long.compare(a.getSourceTime().getUtcTime(), b.getSourceTime().getUtcTime()));
            long asked = details.getNumValuesPerNode().longValue();
            int given = point == null || point.isNullOrEmpty() ? 0 : ByteBuffer.wrap(point.bytesOrEmpty()).getInt();
            int until = (int) Math.min(found.size(), given + (asked > 0 ? Math.min(asked, PER_ANSWER) : PER_ANSWER));
            ByteString next = until == found.size() ? ByteString.NULL_VALUE
                : ByteString.of(ByteBuffer.allocate(4).putInt(until).array());
            HistoryData data = new HistoryData(found.subList(Math.min(given, until), until).toArray(new DataValue[0]));
            return new HistoryReadResult(
                StatusCode.GOOD, next, ExtensionObject.encode(getServer().getSerializationContext(), data));
        }

        @Override
        public void onDataItemsCreated(List<DataItem> items) {
            subscriptions.onDataItemsCreated(items);
        }

        @Override
        public void onDataItemsModified(List<DataItem> items) {
            subscriptions.onDataItemsModified(items);
        }

        @Override
        public void onDataItemsDeleted(List<DataItem> items) {
            subscriptions.onDataItemsDeleted(items);
        }

        @Override
        public void onMonitoringModeChanged(List<MonitoredItem> items) {
            subscriptions.onMonitoringModeChanged(items);
        }
    }
}
