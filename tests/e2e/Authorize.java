import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.internals.PluginMetricsImpl;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.common.utils.SecurityUtils;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.authorizer.AuthorizationResult;

/** Asks Kafka's own StandardAuthorizer: a line of JSON per question, a line ALLOWED or DENIED per answer. */
public class Authorize {
    // One for each set of ACLs: what they hold is never given back, and is walked over with every new one.
    private static Metrics metrics = new Metrics();

    private record Client(KafkaPrincipal principal, InetAddress clientAddress) implements AuthorizableRequestContext {
        public String listenerName() { return "CLIENT"; }
        public SecurityProtocol securityProtocol() { return SecurityProtocol.SASL_SSL; }
        public int requestType() { return 0; }
        public int requestVersion() { return 0; }
        public String clientId() { return "client"; }
        public int correlationId() { return 0; }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        ObjectMapper json = new ObjectMapper();
        StandardAuthorizer authorizer = null;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode asked = json.readTree(line);
            if (asked.has("acls")) {
                if (authorizer != null) {
                    authorizer.close();
                }
                authorizer = authorizer(asked);
            }
            out.println(answer(authorizer, asked));
        }
        out.flush();
    }

    private static StandardAuthorizer authorizer(JsonNode asked) {
        StandardAuthorizer made = new StandardAuthorizer();
        TreeSet<String> supers = new TreeSet<>();
        asked.get("super_users").forEach(each -> supers.add(each.asText()));
        made.configure(Map.of(
            "super.users", String.join(";", supers),
            "allow.everyone.if.no.acl.found", asked.get("allow_everyone").asText()));
        metrics.close();
        metrics = new Metrics();
        made.withPluginMetrics(new PluginMetricsImpl(metrics, Map.of()));
        Map<Uuid, StandardAcl> acls = new HashMap<>();
        for (JsonNode each : asked.get("acls")) {
            acls.put(Uuid.randomUuid(), new StandardAcl(
                ResourceType.fromCode((byte) each.get(0).asInt()),
                each.get(2).asText(),
                PatternType.fromCode((byte) each.get(1).asInt()),
                each.get(3).asText(),
                each.get(4).asText(),
                AclOperation.fromCode((byte) each.get(5).asInt()),
                AclPermissionType.fromCode((byte) each.get(6).asInt())));
        }
        made.loadSnapshot(acls);
        made.completeInitialLoad();
        return made;
    }

    private static AuthorizationResult answer(StandardAuthorizer authorizer, JsonNode asked) throws Exception {
        Client client = new Client(
            SecurityUtils.parseKafkaPrincipal(asked.get("principal").asText()),
            InetAddress.getByName(asked.get("host").asText()));
        AclOperation operation = AclOperation.fromCode((byte) asked.get("operation").asInt());
        ResourceType type = ResourceType.fromCode((byte) asked.get("type").asInt());
        if (asked.get("name").isNull()) {
            return authorizer.authorizeByResourceType(client, operation, type);
        }
        ResourcePattern resource = new ResourcePattern(type, asked.get("name").asText(), PatternType.LITERAL);
        return authorizer.authorize(client, List.of(new Action(operation, resource, 1, true, true))).get(0);
    }
}
