import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.LongAdder;

/** What every handler does, whoever runs it, and what is seen of it; as the variants in Rust do it. */
final class Work {
    private static final int KEYS = 1_000;
    /** A failing record fails so many times before it succeeds. */
    private static final int FAILURES = 2;
    /** One record in so many fails, where some do. */
    private static final int FAILING = 100;
    /** A run in which nothing ends for so long is over; what is missing is lost. */
    private static final long STALLED_NS = 15_000_000_000L;

    final Run run;
    private final AtomicLongArray last = new AtomicLongArray(KEYS);
    private final LongAdder handled = new LongAdder();
    private final ConcurrentHashMap<Long, Integer> failed = new ConcurrentHashMap<>();
    private final AtomicInteger running = new AtomicInteger();
    private final AtomicInteger most = new AtomicInteger();
    private final AtomicBoolean hasBegun = new AtomicBoolean();
    /** By key and number: how often it was passed over, and how often it came late. */
    private final Map<Long, int[]> odd = new HashMap<>();
    private volatile Usage before;

    /** The arguments that the contest gives. */
    record Run(String servers, String topic, String group, String shape, long handlerUs, long records,
            boolean isFailing) {
        static Run of(String[] args) {
            return new Run(args[0], args[1], args[2], args[3], Long.parseLong(args[4]), Long.parseLong(args[5]),
                    Boolean.parseBoolean(args[6]));
        }
    }

    Work(Run run) {
        this.run = run;
    }

    /** One attempt of a handler, which waits on the thread that it has for itself. */
    void handle(Mark mark) throws Planted {
        if (!hasBegun.get() && hasBegun.compareAndSet(false, true)) {
            before = Usage.now();
        }
        if (run.handlerUs == 0) {
            end(mark);
            return;
        }
        most.accumulateAndGet(running.incrementAndGet(), Math::max);
        try {
            Thread.sleep(run.handlerUs / 1_000);
            end(mark);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(error);
        } finally {
            running.decrementAndGet();
        }
    }

    private void end(Mark mark) throws Planted {
        if (run.isFailing && mark.index() % FAILING == 0
                && failed.merge(mark.index(), 1, Integer::sum) <= FAILURES) {
            throw new Planted();
        }
        long passed = last.getAndAccumulate(mark.key(), mark.seq(), Math::max);
        if (mark.seq() != passed + 1) {
            handledOddly(mark.key(), mark.seq(), passed);
        }
        handled.increment();
    }

    private synchronized void handledOddly(int key, long seq, long passed) {
        if (seq <= passed) {
            odd.computeIfAbsent(key | seq << 10, at -> new int[2])[1]++;
            return;
        }
        for (long skipped = passed + 1; skipped < seq; skipped++) {
            odd.computeIfAbsent(key | skipped << 10, at -> new int[2])[0]++;
        }
    }

    /** Whether all records are handled. */
    boolean isDone() {
        return handled.sum() >= run.records;
    }

    /** Waits until all records are handled, or nothing ends any more, and prints the line of the run. */
    void report(String variant, int workers, String settings, String version) throws InterruptedException {
        long seen = 0;
        long since = System.nanoTime();
        long inVain = 0;
        while (!isDone()) {
            long now = handled.sum();
            if (now > seen) {
                seen = now;
                since = System.nanoTime();
            } else if (System.nanoTime() - since > STALLED_NS) {
                inVain = System.nanoTime() - since;
                break;
            }
            Thread.sleep(1);
        }
        Usage after = Usage.now();
        print(variant, workers, settings, version, after, inVain);
    }

    private synchronized void print(String variant, int workers, String settings, String version, Usage after,
            long inVain) {
        long reached = 0;
        for (int key = 0; key < KEYS; key++) {
            reached += last.get(key);
        }
        long lost = run.records - reached;
        long outOfOrder = 0;
        long duplicated = 0;
        for (int[] count : odd.values()) {
            lost += Math.max(count[0] - count[1], 0);
            outOfOrder += Math.min(count[0], count[1]);
            duplicated += Math.max(count[1] - count[0], 0);
        }
        double n = run.records;
        double seconds = (after.ns - before.ns - inVain) / 1e9;
        System.out.printf(java.util.Locale.ROOT,
                "{\"contest\":\"kafka\",\"shape\":\"%s\",\"variant\":\"%s\",\"producers\":1,\"workers\":%d,\"n\":%d,"
                        + "\"handler_us\":%d,\"seconds\":%.6f,\"per_s\":%.1f,\"cpu_ns\":%.1f,"
                        + "\"voluntary_switches\":%.6f,\"involuntary_switches\":%.6f,\"allocs\":null,"
                        + "\"alloc_bytes\":null,\"p50_ns\":null,\"p99_ns\":null,\"p999_ns\":null,\"max_ns\":null,"
                        + "\"max_concurrency\":%s,\"out_of_order\":%d,\"lost\":%d,\"duplicated\":%d,"
                        + "\"settings\":\"%s\",\"version\":\"%s\"}%n",
                run.shape, variant, workers, run.records, run.handlerUs, seconds, n / seconds,
                (after.cpuNs - before.cpuNs) / n, (after.voluntary - before.voluntary) / n,
                (after.involuntary - before.involuntary) / n, most.get() == 0 ? "null" : most.get(), outOfOrder, lost,
                duplicated, settings, version);
        System.out.flush();
    }

    /** The system's account of the process; switches are those of the threads that live. */
    private record Usage(long ns, long cpuNs, long voluntary, long involuntary) {
        static Usage now() {
            long[] switches = new long[2];
            try (DirectoryStream<Path> threads = Files.newDirectoryStream(Path.of("/proc/self/task"))) {
                for (Path thread : threads) {
                    count(thread.resolve("status"), switches);
                }
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
            OperatingSystemMXBean system = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
            return new Usage(System.nanoTime(), system.getProcessCpuTime(), switches[0], switches[1]);
        }

        private static void count(Path status, long[] switches) {
            try {
                for (String line : Files.readAllLines(status)) {
                    if (line.startsWith("voluntary_ctxt_switches:")) {
                        switches[0] += Long.parseLong(line.substring(24).trim());
                    } else if (line.startsWith("nonvoluntary_ctxt_switches:")) {
                        switches[1] += Long.parseLong(line.substring(27).trim());
                    }
                }
            } catch (IOException ended) {
                // A thread that has ended meanwhile is counted no more.
            }
        }
    }
}
