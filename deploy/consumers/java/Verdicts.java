import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.MissingNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Read verdicts and say what to do with each image: one JSON line a verdict. An example to start from.
 *
 * <pre>
 * javac -cp 'jars/*' -d classes Verdicts.java
 * java -cp 'classes:jars/*' Verdicts --bootstrap localhost:9092 --group my-service --out actions.jsonl
 * </pre>
 *
 * <p>It needs kafka-clients and jackson-databind. What every consumer must do, in this language or another, is in
 * docs/consumers.md.
 */
public final class Verdicts {
    private static final String TYPE = "genprint.verdict.v1";
    private static final Set<String> ACTIONS = Set.of("allow", "review", "block");
    private static final Set<String> DECISIONS = Set.of("real", "generated", "unsure");
    private static final Set<String> REASONS =
            Set.of("ambiguous_rendering", "animated_first_frame", "conflict", "detector_unsure", "image_too_small",
                    "no_template", "views_disagree");

    private static final ObjectMapper JSON = new ObjectMapper();

    /** Read until SIGTERM or Ctrl-C. */
    public static void main(String[] arguments) throws IOException {
        Map<String, String> options = readArguments(arguments);
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", options.get("bootstrap"),
                "group.id", options.get("group"),
                "isolation.level", "read_committed", // verdicts of an aborted transaction were never given
                "auto.offset.reset", "earliest",
                "enable.auto.commit", "false");
        Actions actions = new Actions(options.get("out"));
        try (var consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            stopOnSignal(consumer);
            consumer.subscribe(List.of(options.get("topic")));
            while (true) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(500));
                for (ConsumerRecord<byte[], byte[]> record : records) {
                    actions.take(actionFor(record));
                }
                if (!records.isEmpty()) {
                    actions.keep();
                    consumer.commitSync(); // last: what was not kept is read again
                }
            }
        } catch (WakeupException stopping) {
            // Asked to stop; closing the consumer has left the group.
        }
    }

    private static void stopOnSignal(KafkaConsumer<byte[], byte[]> consumer) {
        Thread reader = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                reader.join();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
    }

    /** What to do about a verdict, and why if that is not what the verdict says. */
    private static ObjectNode actionFor(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode action = JSON.createObjectNode();
        ArrayNode unknown = JSON.createArrayNode();
        JsonNode verdict = parsed(record.value());
        if (verdict.isMissingNode()) {
            unknown.add("not JSON");
        }
        String type = header(record, "ce_type");
        if (!TYPE.equals(type)) {
            unknown.add("type " + type);
        }
        // Fields that nobody here asks for do no harm; one that is not there is a missing node.
        JsonNode generated = verdict.path("generated");
        String advised = text(verdict.path("action"));
        String decision = text(generated.path("decision"));
        if (advised == null || !ACTIONS.contains(advised)) {
            unknown.add("action " + advised);
        }
        if (decision == null || !DECISIONS.contains(decision)) {
            unknown.add("decision " + decision);
        }
        if (generated.path("reasons").isArray()) {
            for (JsonNode reason : generated.path("reasons")) {
                if (!reason.isTextual() || !REASONS.contains(reason.asText())) {
                    unknown.add("reason " + reason.asText());
                }
            }
        } else {
            unknown.add("reasons");
        }
        String place = record.topic() + "/" + record.partition() + "/" + record.offset();
        action.put("verdict_id", firstOf(text(verdict.path("verdict_id")), header(record, "ce_id"), place));
        action.put("subject", text(verdict.path("event").path("subject")));
        action.put("action", unknown.isEmpty() ? advised : "review");
        action.put("decision", decision);
        JsonNode probability = generated.path("probability");
        action.put("probability", probability.isNumber() ? probability.doubleValue() : null);
        action.put("source", text(verdict.path("attribution").path("source")));
        action.set("unknown", unknown);
        return action;
    }

    private static JsonNode parsed(byte[] value) {
        try {
            return value == null ? MissingNode.getInstance() : JSON.readTree(value);
        } catch (IOException notJson) {
            return MissingNode.getInstance();
        }
    }

    private static String header(ConsumerRecord<byte[], byte[]> record, String name) {
        Header header = record.headers().lastHeader(name);
        return header == null || header.value() == null ? null : new String(header.value(), StandardCharsets.UTF_8);
    }

    private static String text(JsonNode node) {
        return node.isTextual() ? node.asText() : null;
    }

    private static String firstOf(String... texts) {
        for (String text : texts) {
            if (text != null && !text.isEmpty()) {
                return text;
            }
        }
        throw new IllegalArgumentException("nothing to choose from");
    }

    private static Map<String, String> readArguments(String[] arguments) {
        Map<String, String> options = new java.util.HashMap<>(
                Map.of("bootstrap", "localhost:9092", "topic", "verdicts"));
        Set<String> known = Set.of("bootstrap", "topic", "group", "out");
        for (int i = 0; i < arguments.length; i += 2) {
            String name = arguments[i].replaceFirst("^--", "");
            if (!arguments[i].startsWith("--") || !known.contains(name) || i + 1 == arguments.length) {
                usage();
            }
            options.put(name, arguments[i + 1]);
        }
        if (!options.containsKey("group")) {
            usage();
        }
        return options;
    }

    private static void usage() {
        System.err.println("usage: Verdicts --group GROUP [--bootstrap HOST:PORT] [--topic TOPIC] [--out FILE]");
        System.exit(2);
    }

    /**
     * Every verdict once, by its id: the lines that are in the file already are what was done. In a service this is a
     * table with a unique key. Without a file repetitions are known only while this runs.
     */
    private static final class Actions {
        private final Set<String> done = new HashSet<>();
        private final StringBuilder lines = new StringBuilder();
        private final RandomAccessFile file;

        Actions(String path) throws IOException {
            if (path == null) {
                file = null;
                return;
            }
            file = new RandomAccessFile(path, "rw");
            byte[] written = new byte[(int) file.length()];
            file.readFully(written);
            int whole = written.length;
            while (whole > 0 && written[whole - 1] != '\n') {
                whole--; // half a line is what a crash leaves
            }
            file.setLength(whole);
            file.seek(whole);
            String kept = new String(written, 0, whole, StandardCharsets.UTF_8);
            for (String line : kept.lines().toList()) {
                done.add(JSON.readTree(line).get("verdict_id").asText());
            }
        }

        /** Write it, unless it was there before. */
        void take(ObjectNode action) throws JsonProcessingException {
            if (done.add(action.get("verdict_id").asText())) {
                lines.append(JSON.writeValueAsString(action)).append('\n');
            }
        }

        /** Make it last. */
        void keep() throws IOException {
            if (file == null) {
                System.out.print(lines);
                System.out.flush();
            } else {
                file.write(lines.toString().getBytes(StandardCharsets.UTF_8));
                file.getFD().sync();
            }
            lines.setLength(0);
        }
    }
}
