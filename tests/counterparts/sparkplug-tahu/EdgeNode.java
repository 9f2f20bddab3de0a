import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.tahu.edge.EdgeClient;
import org.eclipse.tahu.edge.api.MetricHandler;
import org.eclipse.tahu.message.SparkplugBPayloadDecoder;
import org.eclipse.tahu.message.SparkplugBPayloadEncoder;
import org.eclipse.tahu.message.model.*;
import org.eclipse.tahu.message.model.DataSet.DataSetBuilder;
import org.eclipse.tahu.message.model.MetaData.MetaDataBuilder;
import org.eclipse.tahu.message.model.Metric.MetricBuilder;
import org.eclipse.tahu.message.model.PropertySet.PropertySetBuilder;
import org.eclipse.tahu.message.model.Row.RowBuilder;
import org.eclipse.tahu.message.model.Template.TemplateBuilder;
import org.eclipse.tahu.model.MqttServerDefinition;
import org.eclipse.tahu.mqtt.*;

/**
 * Edge node G/T with device D through Eclipse Tahu, with aliases: java EdgeNode PORT [PRIMARY_HOST].
 *
 * It is told what to do by lines on stdin, and says on stdout what happens:
 *   ndata VALUE | ddata VALUE | history VALUE | null | ddeath | dbirth | skip (one sequence number is lost) | leave
 */
public class EdgeNode implements MetricHandler, ClientCallback {
    static final Date T = new Date(1700000000000L);
    static final EdgeNodeDescriptor NODE = new EdgeNodeDescriptor("G", "T");
    static final String HOST_PREFIX = SparkplugMeta.SPARKPLUG_TOPIC_HOST_STATE_PREFIX;

    final EdgeClient client;
    long deaths = 0;

    EdgeNode(int port, String primary) throws Exception {
        MqttServerDefinition server = new MqttServerDefinition(
            new MqttServerName("broker"), new MqttClientId("tahu-T", false),
            new MqttServerUrl("tcp://127.0.0.1:" + port), null, null, 5, null);
        client = new EdgeClient(this, NODE, List.of("D"), primary, true, 0L, List.of(server), this, null);
        Thread thread = new Thread(client);
        thread.setDaemon(true);
        thread.start();
    }

    public static void main(String[] arguments) throws Exception {
        EdgeNode node = new EdgeNode(Integer.parseInt(arguments[0]), arguments.length > 1 ? arguments[1] : null);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "ndata" -> node.client.publishNodeData(payload(metric("up", MetricDataType.Int32, Integer.valueOf(words[1]))));
                case "ddata" -> node.client.publishDeviceData("D", payload(temperature(Double.valueOf(words[1])).createMetric()));
                case "history" -> node.client.publishDeviceData("D",
                    payload(temperature(Double.valueOf(words[1])).isHistorical(true).createMetric()));
                case "null" -> node.client.publishDeviceData("D", payload(temperature(null).isTransient(true).createMetric()));
                case "ddeath" -> node.client.publishDeviceDeath("D");
                case "dbirth" -> node.client.publishDeviceBirth("D", payload(deviceMetrics()));
                case "skip" -> node.client.getNextSeqNum();
                case "leave" -> node.client.disconnect(true);
                default -> throw new IllegalArgumentException(line);
            }
            say("done " + words[0]);
        }
        System.exit(0);
    }

    static synchronized void say(String words) {
        System.out.println(words);
        System.out.flush();
    }

    static SparkplugBPayload payload(Metric... metrics) {
        return new SparkplugBPayload(T, new ArrayList<>(List.of(metrics)));
    }

    static Metric metric(String name, MetricDataType type, Object value) throws Exception {
        return new MetricBuilder(name, type, value).timestamp(T).createMetric();
    }

    static MetricBuilder temperature(Double value) {
        return new MetricBuilder("temp", MetricDataType.Double, value).timestamp(new Date());
    }

    static PropertySet properties() throws Exception {
        return new PropertySetBuilder()
            .addProperty("engUnit", new PropertyValue<>(PropertyDataType.String, "°C"))
            .addProperty("Quality", new PropertyValue<>(PropertyDataType.Int32, 192))
            .addProperty("place", new PropertyValue<>(PropertyDataType.PropertySet,
                new PropertySetBuilder().addProperty("hall", new PropertyValue<>(PropertyDataType.Int64, 7L)).createPropertySet()))
            .createPropertySet();
    }

    static Template motor(boolean definition) throws Exception {
        TemplateBuilder builder = new TemplateBuilder().version("v1").definition(definition)
            .addMetric(metric("rpm", MetricDataType.Int32, definition ? 0 : -1450))
            .addMetric(metric("on", MetricDataType.Boolean, !definition))
            .addParameter(new Parameter("maker", ParameterDataType.String, "ACME"));
        return (definition ? builder : builder.templateRef("Motor")).createTemplate();
    }

    static DataSet table() throws Exception {
        return new DataSetBuilder(3).addColumnName("n").addColumnName("x").addColumnName("t")
            .addType(DataSetDataType.Int8).addType(DataSetDataType.Double).addType(DataSetDataType.DateTime)
            .addRow(new RowBuilder().addValue(new Value<>(DataSetDataType.Int8, (byte) -1))
                .addValue(new Value<>(DataSetDataType.Double, 2.5)).addValue(new Value<>(DataSetDataType.DateTime, T)).createRow())
            .createDataSet();
    }

    static Metric[] deviceMetrics() throws Exception {
        BigInteger large = BigInteger.TWO.pow(64).subtract(BigInteger.ONE);
        return new Metric[] {
            temperature(20.5).properties(properties()).metaData(new MetaDataBuilder().description("of the oven").createMetaData()).createMetric(),
            metric("int8", MetricDataType.Int8, (byte) -128),
            metric("int16", MetricDataType.Int16, (short) -32768),
            metric("int32", MetricDataType.Int32, Integer.MIN_VALUE),
            metric("int64", MetricDataType.Int64, Long.MIN_VALUE),
            metric("uint8", MetricDataType.UInt8, (short) 255),
            metric("uint16", MetricDataType.UInt16, 65535),
            metric("uint32", MetricDataType.UInt32, 4294967295L),
            metric("uint64", MetricDataType.UInt64, large),
            metric("float", MetricDataType.Float, 0.5f),
            metric("boolean", MetricDataType.Boolean, true),
            metric("string", MetricDataType.String, "läuft ✓"),
            metric("text", MetricDataType.Text, "two\nlines"),
            metric("uuid", MetricDataType.UUID, "5e1f0a52-0000-4000-8000-000000000001"),
            metric("datetime", MetricDataType.DateTime, T),
            metric("bytes", MetricDataType.Bytes, new byte[] {1, 2, -1}),
            new MetricBuilder("file", MetricDataType.File, new File("a.bin", new byte[] {0, 127})).timestamp(T)
                .metaData(new MetaDataBuilder().fileName("a.bin").fileType("bin").size(2L).createMetaData()).createMetric(),
            metric("dataset", MetricDataType.DataSet, table()),
            metric("template", MetricDataType.Template, motor(false)),
            metric("int8array", MetricDataType.Int8Array, new Byte[] {-128, 127}),
            metric("int16array", MetricDataType.Int16Array, new Short[] {-32768, 32767}),
            metric("int32array", MetricDataType.Int32Array, new Integer[] {Integer.MIN_VALUE, 1}),
            metric("int64array", MetricDataType.Int64Array, new Long[] {Long.MIN_VALUE, 1L}),
            metric("uint8array", MetricDataType.UInt8Array, new Short[] {0, 255}),
            metric("uint16array", MetricDataType.UInt16Array, new Integer[] {0, 65535}),
            metric("uint32array", MetricDataType.UInt32Array, new Long[] {0L, 4294967295L}),
            metric("uint64array", MetricDataType.UInt64Array, new BigInteger[] {BigInteger.ZERO, large}),
            metric("floatarray", MetricDataType.FloatArray, new Float[] {0.5f, -2f}),
            metric("doublearray", MetricDataType.DoubleArray, new Double[] {0.1, -2.0}),
            metric("booleanarray", MetricDataType.BooleanArray,
                new Boolean[] {true, false, true, true, false, false, false, false, true}),
            metric("stringarray", MetricDataType.StringArray, new String[] {"a", "ß"}),
            metric("datetimearray", MetricDataType.DateTimeArray, new Date[] {T}),
            metric("nothing", MetricDataType.Int32, null),
        };
    }

    @Override
    public Topic getDeathTopic() {
        return new Topic(SparkplugMeta.SPARKPLUG_B_TOPIC_PREFIX, NODE, MessageType.NDEATH);
    }

    @Override
    public byte[] getDeathPayloadBytes() throws Exception {
        deaths = (deaths + 1) % 256;
        SparkplugBPayload death = new SparkplugBPayload(new Date(), new ArrayList<>(List.of(bdSeq())));
        return new SparkplugBPayloadEncoder().getBytes(death, true);
    }

    Metric bdSeq() throws Exception {
        return metric(SparkplugMeta.SPARKPLUG_BD_SEQUENCE_NUMBER_KEY, MetricDataType.Int64, deaths);
    }

    @Override
    public void publishBirthSequence() {
        try {
            SparkplugBPayloadMap birth = new SparkplugBPayloadMap();
            birth.setTimestamp(T);
            birth.addMetric(bdSeq());
            birth.addMetric(metric("up", MetricDataType.Int32, 1));
            birth.addMetric(metric("Motor", MetricDataType.Template, motor(true)));
            client.publishNodeBirth(birth);
            client.publishDeviceBirth("D", payload(deviceMetrics()));
            say("born");
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public boolean hasMetric(SparkplugDescriptor descriptor, String name) {
        return true;
    }

    @Override
    public void messageArrived(MqttServerName name, MqttServerUrl url, MqttClientId id, String topic, MqttMessage message) {
        try {
            if (topic.startsWith(HOST_PREFIX + "/")) {
                StatePayload state = new ObjectMapper().readValue(message.getPayload(), StatePayload.class);
                say("state " + topic.substring(HOST_PREFIX.length() + 1) + " " + state.isOnline());
                client.handleStateMessage(topic.substring(HOST_PREFIX.length() + 1), state);
            } else if (Topic.parseTopic(topic).isType(MessageType.NCMD)) {
                for (Metric metric : new SparkplugBPayloadDecoder().buildFromByteArray(message.getPayload(), null).getMetrics()) {
                    say("ncmd " + metric.getName() + " " + metric.getValue());
                    if (metric.getName().equals(SparkplugMeta.METRIC_NODE_REBIRTH)) {
                        client.handleRebirthRequest(true);
                    }
                }
            }
        } catch (Exception error) {
            say("error " + error);
        }
    }

    @Override
    public void connectComplete(boolean again, MqttServerName name, MqttServerUrl url, MqttClientId id) {
        say("connected");
    }

    @Override
    public void connectionLost(MqttServerName name, MqttServerUrl url, MqttClientId id, Throwable why) {
        say("lost");
    }

    @Override
    public void shutdown() {
        say("shutdown");
    }
}
