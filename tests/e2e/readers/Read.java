import java.io.PrintStream;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * BOOTSTRAP ISOLATION TOPIC:OFFSET… or BOOTSTRAP share GROUP TOPIC: prints the records of partition 0 of each topic,
 * until it is killed.
 */
public class Read {
    public static void main(String[] arguments) {
        List<String> topics = Arrays.asList(arguments).subList(2, arguments.length);
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        PrintStream out = new PrintStream(System.out, false);
        if (arguments[1].equals("share")) {
            properties.put("group.id", topics.get(0));
            try (KafkaShareConsumer<byte[], byte[]> consumer = new KafkaShareConsumer<>(properties, bytes, bytes)) {
                consumer.subscribe(Set.of(topics.get(1)));
                while (true) {
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                        print(out, record);
                    }
                    out.flush();
                }
            }
        }
        properties.put("isolation.level", arguments[1]);
        properties.put("auto.offset.reset", "none");
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties, bytes, bytes)) {
            Map<TopicPartition, Long> starts = new HashMap<>();
            for (String topic : topics) {
                String[] parts = topic.split(":");
                starts.put(new TopicPartition(parts[0], 0), Long.parseLong(parts[1]));
            }
            consumer.assign(starts.keySet());
            starts.forEach(consumer::seek);
            while (true) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    print(out, record);
                }
                out.flush();
            }
        }
    }

    private static void print(PrintStream out, ConsumerRecord<byte[], byte[]> record) {
        out.println(record.topic() + " " + record.offset() + " " + hex(record.key()) + " " + hex(record.value()));
    }

    private static String hex(byte[] bytes) {
        if (bytes == null) {
            return "-";
        }
        StringBuilder text = new StringBuilder("x");
        for (byte each : bytes) {
            text.append(String.format("%02x", each));
        }
        return text.toString();
    }
}
