import io.confluent.parallelconsumer.PCRetriableException;
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** Confluent's Parallel Consumer, in order by key. */
final class Contest {
    /** Threads where handlers wait: one for each key. */
    private static final int WAITING = 1_000;
    /** Threads where they do not: the best of 1, 2, 4, 16, 64, 256 and 1,000. */
    private static final int BUSY = 64;

    public static void main(String[] args) throws Exception {
        Work work = new Work(Work.Run.of(args));
        int threads = work.run.handlerUs() == 0 ? BUSY : WAITING;
        var consumer = new KafkaConsumer<>(Map.of(
                "bootstrap.servers", work.run.servers(),
                "group.id", work.run.group(),
                "enable.auto.commit", "false",
                "auto.offset.reset", "earliest",
                "isolation.level", "read_committed",
                "max.poll.records", "5000"), new ByteArrayDeserializer(), new ByteArrayDeserializer());
        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(consumer)
                .ordering(ProcessingOrder.KEY)
                .maxConcurrency(threads)
                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .defaultMessageRetryDelay(Duration.ofMillis(1))
                .build();
        ParallelStreamProcessor<byte[], byte[]> processor = ParallelStreamProcessor.createEosStreamProcessor(options);
        processor.subscribe(List.of(work.run.topic()));
        processor.poll(context -> {
            var record = context.getSingleConsumerRecord();
            try {
                work.handle(Mark.read(record.value(), record.headers()));
            } catch (Planted failed) {
                throw new PCRetriableException(failed);
            }
        });
        work.report("parallel_consumer", threads,
                "ordering KEY, maxConcurrency " + threads + ", PERIODIC_CONSUMER_ASYNCHRONOUS, retry delay 1 ms,"
                        + " max.poll.records 5000, read_committed, else defaults; Jackson's streaming parser and headers;"
                        + " a cold JVM, whose compilation is part of the run",
                "parallel-consumer-core 0.5.3.3, kafka-clients " + AppInfoParser.getVersion() + ", Java "
                        + Runtime.version());
        // Its threads are of no interest any more.
        Runtime.getRuntime().halt(0);
    }
}
