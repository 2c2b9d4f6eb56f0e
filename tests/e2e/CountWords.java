import java.io.FileReader;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.Stores;

/** Counts words, by a topic of its own for those that move and one for the counts: PROPERTIES_FILE FROM TO. */
public class CountWords {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileReader file = new FileReader(arguments[0])) {
            properties.load(file);
        }
        properties.put("commit.interval.ms", "200");
        properties.put("default.key.serde", Serdes.StringSerde.class.getName());
        properties.put("default.value.serde", Serdes.StringSerde.class.getName());
        var builder = new StreamsBuilder();
        var counts = Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts"));
        builder.<String, String>stream(arguments[1])
            .groupBy((key, word) -> word)
            .count(counts.withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .map((word, count) -> org.apache.kafka.streams.KeyValue.pair(word, word + " " + count))
            .to(arguments[2]);
        var streams = new KafkaStreams(builder.build(), properties);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}
