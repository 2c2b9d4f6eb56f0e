import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Each line of standard input, "commit VALUE…" or "abort VALUE…", is a transaction: PROPERTIES_FILE TOPIC. */
public class Transact {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileReader file = new FileReader(arguments[0])) {
            properties.load(file);
        }
        StringSerializer text = new StringSerializer();
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(properties, text, text);
                BufferedReader lines = new BufferedReader(new InputStreamReader(System.in))) {
            producer.initTransactions();
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.split(" ");
                producer.beginTransaction();
                var sent = new ArrayList<Future<?>>();
                for (int i = 1; i < words.length; i++) {
                    sent.add(producer.send(new ProducerRecord<>(arguments[1], words[i])));
                }
                for (Future<?> each : sent) {
                    each.get();
                }
                if (words[0].equals("commit")) {
                    producer.commitTransaction();
                } else {
                    producer.abortTransaction();
                }
            }
        }
    }
}
