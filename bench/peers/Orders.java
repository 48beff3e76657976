import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.Properties;
import java.util.UUID;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The commands of bench/load.py as a Kafka Streams application, exactly once.
 *
 * Orders and the first outcome of each command id are in RocksDB with changelog topics; events and outcomes go out in
 * the same Kafka transaction. It judges who may do what while a dispute is open and nothing else of the rules.
 */
public class Orders {
    static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) {
        String servers = arguments[0], prefix = arguments[1], folder = arguments[2], interval = arguments[3];
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix + "streams");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, interval);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");

        KafkaStreams streams = new KafkaStreams(topology(prefix), settings);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) System.out.println("ready");
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
    }

    static Topology topology(String prefix) {
        Topology topology = new Topology();
        var text = Serdes.String();
        var bytes = Serdes.ByteArray();
        topology.addSource("commands", text.deserializer(), bytes.deserializer(), prefix + "commands");
        topology.addProcessor("judge", Judge::new, "commands");
        for (String store : new String[] {"orders", "outcomes"})
            topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(store), text, bytes), "judge");
        topology.addSink("to-events", prefix + "events", text.serializer(), bytes.serializer(), "judge");
        topology.addSink("to-outcomes", prefix + "outcomes", text.serializer(), bytes.serializer(), "judge");
        return topology;
    }

    static class Judge implements Processor<String, byte[], String, byte[]> {
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> orders, outcomes;

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            orders = context.getStateStore("orders");
            outcomes = context.getStateStore("outcomes");
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                JsonNode command = JSON.readTree(record.value());
                String use = record.key() + "/" + command.get("id").asText();
                byte[] outcome = outcomes.get(use);
                if (outcome == null) {
                    outcome = judge(record, command);
                    outcomes.put(use, outcome);
                }
                context.forward(record.withValue(outcome), "to-outcomes");
            } catch (java.io.IOException error) {
                throw new RuntimeException(error);
            }
        }

        private byte[] judge(Record<String, byte[]> record, JsonNode command) throws java.io.IOException {
            byte[] stored = orders.get(record.key());
            ObjectNode order = stored == null ? null : (ObjectNode) JSON.readTree(stored);
            String name = command.get("type").asText().split("\\.")[2];
            JsonNode data = command.get("data");
            String refusal = refusal(order, name, data);
            ObjectNode outcome = envelope(record, command, refusal == null ? "CommandAccepted" : "CommandRejected", 0);
            if (refusal != null) {
                outcome.putObject("data").put("command", name).put("code", refusal);
                return JSON.writeValueAsBytes(outcome);
            }
            if (order == null) order = JSON.createObjectNode().put("version", 0);
            evolve(order, name, data, command.get("id").asText());
            int version = order.get("version").asInt() + 1;
            order.put("version", version);
            ObjectNode event = envelope(record, command, name, version);
            event.set("data", data);
            context.forward(record.withValue(JSON.writeValueAsBytes(event)), "to-events");
            orders.put(record.key(), JSON.writeValueAsBytes(order));
            outcome.putObject("data").put("command", name).putArray("events").add(event.get("id").asText());
            return JSON.writeValueAsBytes(outcome);
        }

        private static String refusal(ObjectNode order, String name, JsonNode data) {
            if (order == null) return name.equals("RegisterOrder") ? null : "unknown_order";
            if (name.equals("RegisterOrder")) return "order_exists";
            if (name.equals("RecordDelivery")) return null;
            String actor = data.get("actor").asText();
            if (!actor.equals(order.get("client").asText()) && !actor.equals(order.get("freelancer").asText()))
                return "not_a_party";
            boolean opens = name.equals("OpenDispute") || name.equals("OfferPartialRefund");
            if (opens) return order.has("open") ? "dispute_open" : null;
            boolean settles = order.has("open") && order.get("open").asText().equals(data.get("dispute_id").asText());
            return settles ? null : "dispute_not_open";
        }

        private static void evolve(ObjectNode order, String name, JsonNode data, String id) {
            switch (name) {
                case "RegisterOrder" -> order.put("client", data.get("client_id").asText())
                    .put("freelancer", data.get("freelancer_id").asText())
                    .put("price", data.get("price").get("amount").asLong());
                case "OpenDispute", "OfferPartialRefund" -> order.put("open", id);
                case "Accept", "Decline", "Withdraw" -> order.remove("open");
                default -> order.put("delivered", true);
            }
        }

        private static ObjectNode envelope(Record<String, byte[]> record, JsonNode command, String name, int version) {
            String use = record.key() + ":" + command.get("id").asText() + ":" + name;
            return JSON.createObjectNode()
                .put("specversion", "1.0")
                .put("id", UUID.nameUUIDFromBytes(use.getBytes(StandardCharsets.UTF_8)).toString())
                .put("type", "resolution." + (version > 0 ? "event." : "outcome.") + name + ".v1")
                .put("source", "/kafka-streams")
                .put("subject", record.key())
                .put("time", java.time.Instant.ofEpochMilli(record.timestamp()).toString())
                .put("causationid", command.get("id").asText());
        }
    }
}
