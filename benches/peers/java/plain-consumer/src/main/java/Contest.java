import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** A loop over Kafka's own consumer: the least that the JVM needs. */
final class Contest {
    /** A failed record is tried again in place after so long. */
    private static final long BACKOFF_MS = 1;

    public static void main(String[] args) throws Exception {
        Work work = new Work(Work.Run.of(args));
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", work.run.servers(),
                "group.id", work.run.group(),
                "enable.auto.commit", "false",
                "auto.offset.reset", "earliest",
                "isolation.level", "read_committed",
                "max.poll.records", "5000");
        Thread loop = new Thread(() -> consume(settings, work), "loop");
        loop.setDaemon(true);
        loop.start();
        work.report("plain_consumer", 1,
                "KafkaConsumer.poll, one thread, one record after the other, max.poll.records 5000, read_committed, else"
                        + " defaults; Jackson's streaming parser and headers; commits nothing; a failed record is tried"
                        + " again in place after 1 ms; a cold JVM, whose compilation is part of the run",
                "kafka-clients " + AppInfoParser.getVersion() + ", Java " + Runtime.version());
    }

    private static void consume(Map<String, Object> settings, Work work) {
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(work.run.topic()));
            while (!work.isDone()) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    handle(work, Mark.read(record.value(), record.headers()));
                }
            }
        }
    }

    private static void handle(Work work, Mark mark) {
        while (true) {
            try {
                work.handle(mark);
                return;
            } catch (Planted failed) {
                java.util.concurrent.locks.LockSupport.parkNanos(BACKOFF_MS * 1_000_000);
            }
        }
    }
}
