import java.io.FileReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeClusterOptions;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;

/** What came with Kafka 4, through one bootstrap address: PROPERTIES_FILE TOPIC GROUP COUNT. Prints name=value. */
public class NewApis {
    static final Duration WAIT = Duration.ofMillis(500);
    static final long WITHIN_MS = 60_000;

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileReader file = new FileReader(arguments[0])) {
            properties.load(file);
        }
        String topic = arguments[1];
        String group = arguments[2];
        int count = Integer.parseInt(arguments[3]);
        try (Admin admin = Admin.create(properties)) {
            cluster(admin, topic);
            share(admin, properties, topic, group + "-share", count);
            consumer(admin, properties, topic, group + "-consumer", count);
        }
    }

    static void say(String name, Object value) {
        System.out.println(name + "=" + value);
    }

    static void cluster(Admin admin, String topic) throws Exception {
        var cluster = admin.describeCluster(new DescribeClusterOptions().includeFencedBrokers(true));
        say("nodes", cluster.nodes().get().stream().map(n -> n.host() + ":" + n.port()).sorted().toList());
        var quorum = admin.describeMetadataQuorum().quorumInfo().get();
        say("quorum.voters", quorum.voters().size());
        var broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        var configs = admin.describeConfigs(List.of(broker)).all().get().get(broker);
        say("listeners", configs.get("listeners").value() + " " + configs.get("listeners").isSensitive());
        say("log.retention.hours", configs.get("log.retention.hours").value());
        say("config.resources", admin.listConfigResources().all().get().size() > 0);
        var described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        say("leader", described.partitions().get(0).leader().host());
        say("features", new TreeSet<>(admin.describeFeatures().featureMetadata().get().finalizedFeatures().keySet()));
        say("transactions", admin.listTransactions().all().get().size() >= 0);
    }

    static void share(Admin admin, Properties properties, String topic, String group, int count) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        var earliest = new AlterConfigOp(
            new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(earliest))).all().get();
        var settings = new HashMap<String, Object>();
        properties.forEach((name, value) -> settings.put((String) name, value));
        settings.put("group.id", group);
        settings.put("share.acknowledgement.mode", "explicit");
        var values = new ArrayList<String>();
        int again = 0;
        var text = new StringDeserializer();
        try (var consumer = new KafkaShareConsumer<>(settings, text, text)) {
            consumer.subscribe(List.of(topic));
            long end = System.currentTimeMillis() + WITHIN_MS;
            while (values.size() < count && System.currentTimeMillis() < end) {
                for (ConsumerRecord<String, String> each : consumer.poll(WAIT)) {
                    // What was given back once comes again, and says so.
                    if (each.offset() == 0 && each.deliveryCount().orElse((short) 1) == 1) {
                        consumer.acknowledge(each, AcknowledgeType.RELEASE);
                        continue;
                    }
                    again += each.deliveryCount().orElse((short) 1) > 1 ? 1 : 0;
                    consumer.acknowledge(each, AcknowledgeType.ACCEPT);
                    values.add(each.value());
                }
                consumer.commitSync();
            }
            var described = admin.describeShareGroups(List.of(group)).all().get().get(group);
            say("share.members", described.members().size());
        }
        say("share.values", values.size() + " " + Set.copyOf(values).size());
        say("share.again", again > 0);
        var partition = new TopicPartition(topic, 0);
        var spec = new ListShareGroupOffsetsSpec().topicPartitions(List.of(partition));
        admin.alterShareGroupOffsets(group, Map.of(partition, 1L)).all().get();
        var offsets = admin.listShareGroupOffsets(Map.of(group, spec)).partitionsToOffsetInfo(group).get();
        say("share.altered", offsets.get(partition).startOffset());
        admin.deleteShareGroupOffsets(group, Set.of(topic)).all().get();
        admin.deleteShareGroups(List.of(group)).all().get();
        say("share.deleted", admin.listGroups().all().get().stream().noneMatch(g -> g.groupId().equals(group)));
    }

    static void consumer(Admin admin, Properties properties, String topic, String group, int count) throws Exception {
        var settings = new Properties();
        settings.putAll(properties);
        settings.put("group.id", group);
        settings.put("group.protocol", "consumer");
        settings.put("auto.offset.reset", "earliest");
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.subscribe(List.of(topic));
            say("consumer.values", poll(consumer, count));
            consumer.commitSync();
            var described = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            say("consumer.group", described.type() + " " + described.members().size());
            say("consumer.offset", consumer.committed(Set.of(new TopicPartition(topic, 0))).values());
        }
        settings.put("group.id", group + "-pattern");
        try (var consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.subscribe(Pattern.compile(Pattern.quote(topic)));
            say("pattern.values", poll(consumer, count));
        }
        settings.put("group.id", group + "-expression");
        try (var consumer = new KafkaConsumer<>(settings, text, text)) {
            consumer.subscribe(new SubscriptionPattern(".*"));
            say("expression", poll(consumer, 1));
        } catch (org.apache.kafka.common.KafkaException refused) {
            say("expression", refused.getClass().getSimpleName());
        }
        var controllers = new DescribeClusterOptions();
        try {
            var wrong = new Properties();
            wrong.putAll(properties);
            wrong.put("bootstrap.controllers", wrong.remove("bootstrap.servers"));
            wrong.put("default.api.timeout.ms", "5000");
            wrong.put("request.timeout.ms", "4000");
            try (Admin direct = Admin.create(wrong)) {
                say("controllers", direct.describeCluster(controllers).nodes().get());
            }
        } catch (ExecutionException refused) {
            say("controllers", refused.getCause().getClass().getSimpleName());
        }
    }

    static int poll(KafkaConsumer<String, String> consumer, int count) {
        var values = new TreeSet<String>();
        long end = System.currentTimeMillis() + WITHIN_MS;
        while (values.size() < count && System.currentTimeMillis() < end) {
            consumer.poll(WAIT).forEach(each -> values.add(each.value()));
        }
        return values.size();
    }
}
