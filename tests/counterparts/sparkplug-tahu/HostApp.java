import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.eclipse.tahu.host.HostApplication;
import org.eclipse.tahu.host.api.MultiHostApplicationEventHandler;
import org.eclipse.tahu.message.SparkplugBPayloadDecoder;
import org.eclipse.tahu.message.model.*;
import org.eclipse.tahu.message.model.Metric.MetricBuilder;
import org.eclipse.tahu.model.MqttServerDefinition;
import org.eclipse.tahu.mqtt.*;

/**
 * Host application "scada" through Eclipse Tahu: java HostApp PORT.
 *
 * It says on stdout, as a line of JSON each, what Tahu makes of births, data and deaths, and takes lines on stdin:
 *   rebirth GROUP NODE | online | offline
 */
public class HostApp {
    static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        MqttServerDefinition server = new MqttServerDefinition(
            new MqttServerName("broker"), new MqttClientId("tahu-host", false),
            new MqttServerUrl("tcp://127.0.0.1:" + arguments[0]), null, null, 30, null);
        MultiHostApplicationEventHandler handler = (MultiHostApplicationEventHandler) Proxy.newProxyInstance(
            HostApp.class.getClassLoader(), new Class<?>[] {MultiHostApplicationEventHandler.class},
            (proxy, method, parts) -> heard(method, parts));
        HostApplication host = new HostApplication(
            handler, "scada", List.of("spBv1.0/#"), List.of(server), null, new SparkplugBPayloadDecoder(), true);
        host.start(true);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "rebirth" -> host.publishCommand(
                    new Topic(SparkplugMeta.SPARKPLUG_B_TOPIC_PREFIX, words[1], words[2], MessageType.NCMD),
                    new SparkplugBPayload(new Date(), new ArrayList<>(List.of(
                        new MetricBuilder(SparkplugMeta.METRIC_NODE_REBIRTH, MetricDataType.Boolean, true).createMetric()))));
                case "online" -> host.setOnlineState(true);
                case "offline" -> host.setOnlineState(false);
                default -> throw new IllegalArgumentException(line);
            }
        }
        System.exit(0);
    }

    static synchronized Object heard(Method method, Object[] parts) throws Exception {
        if (method.getDeclaringClass() == Object.class) {
            return method.getName().equals("hashCode") ? 1 : method.getName().equals("equals") ? (Object) false : "handler";
        }
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("event", method.getName());
        if (parts.length > 1) {
            said.put("of", parts[1].toString());
        }
        if (parts.length > 2 && parts[2] instanceof Message message) {
            said.put("seq", message.getPayload() == null ? null : message.getPayload().getSeq());
        }
        if (parts.length > 2 && parts[2] instanceof Metric metric) {
            Object value = metric.getValue();
            said.put("name", metric.getName());
            said.put("alias", metric.getAlias());
            said.put("type", String.valueOf(metric.getDataType()));
            said.put("value", value instanceof Object[] many ? Arrays.asList(many) : value);
            said.put("historical", Boolean.TRUE.equals(metric.isHistorical()));
            said.put("time", metric.getTimestamp() == null ? null : metric.getTimestamp().getTime());
            PropertySet properties = metric.getProperties();
            said.put("quality", properties == null || properties.getPropertyValue("Quality") == null ? null
                : properties.getPropertyValue("Quality").getValue());
        }
        System.out.println(JSON.writeValueAsString(said));
        System.out.flush();
        return null;
    }
}
