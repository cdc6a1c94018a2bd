import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.core.fs.Path;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The cart join on Flink: lines of JSON in, a user's cart out after every event. Formats of the other contenders
 * (src/cart.rs). Run by flink.sh: CartJob PARALLELISM CHECKPOINT_MS (0: none) CHECKPOINT_DIR OUTPUT_DIR FILE...
 *
 * State on the heap, as Flink advises for what fits there; the joining function writes its row where the cart lives.
 */
public class CartJob {
    /** One input line. */
    public static class Event {
        public String user_id;
        public String type;
        public long order_id;
    }

    /** A user's orders. */
    public static class Cart {
        public long[] paid = new long[4];
        public long[] unpaid = new long[4];
        public int paidCount;
        public int unpaidCount;

        void apply(Event event) {
            if (event.type.equals("order")) {
                unpaid = with(unpaid, unpaidCount++, event.order_id);
                return;
            }
            for (int at = 0; at < unpaidCount; at++) {
                if (unpaid[at] == event.order_id) {
                    System.arraycopy(unpaid, at + 1, unpaid, at, --unpaidCount - at);
                    paid = with(paid, paidCount++, event.order_id);
                    return;
                }
            }
            throw new IllegalStateException("only what is unpaid is paid: " + event.order_id);
        }

        private static long[] with(long[] orders, int count, long order) {
            long[] room = count < orders.length ? orders : java.util.Arrays.copyOf(orders, 2 * count);
            room[count] = order;
            return room;
        }

        private static void append(StringBuilder row, long[] orders, int count) {
            for (int at = 0; at < count; at++) {
                if (at > 0) {
                    row.append(',');
                }
                row.append(orders[at]);
            }
        }

        /** The users of the generator need no escapes, unless they are spiced. */
        String row(String user) {
            StringBuilder row = new StringBuilder(128).append("{\"user_id\":\"").append(user).append("\",\"paid_order_ids\":[");
            append(row, paid, paidCount);
            append(row.append("],\"unpaid_order_ids\":["), unpaid, unpaidCount);
            return row.append("]}").toString();
        }
    }

    /** Joins the carts. */
    public static class Join extends KeyedProcessFunction<String, Event, String> {
        private transient ValueState<Cart> carts;

        @Override
        public void open(Configuration parameters) {
            carts = getRuntimeContext().getState(new ValueStateDescriptor<>("cart", Cart.class));
        }

        @Override
        public void processElement(Event event, Context context, Collector<String> out) throws Exception {
            Cart cart = carts.value();
            if (cart == null) {
                cart = new Cart();
            }
            cart.apply(event);
            carts.update(cart);
            out.collect(cart.row(event.user_id));
        }
    }

    public static void main(String[] arguments) throws Exception {
        int parallelism = Integer.parseInt(arguments[0]);
        long checkpointMs = Long.parseLong(arguments[1]);
        Path[] files = new Path[arguments.length - 4];
        for (int at = 0; at < files.length; at++) {
            files[at] = new Path(arguments[4 + at]);
        }
        Configuration configuration = new Configuration();
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(64));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(64));
        StreamExecutionEnvironment flow = StreamExecutionEnvironment.createLocalEnvironment(parallelism, configuration);
        flow.getConfig().enableObjectReuse();
        if (checkpointMs > 0) {
            flow.enableCheckpointing(checkpointMs, CheckpointingMode.EXACTLY_ONCE);
            flow.getCheckpointConfig().setCheckpointStorage("file://" + arguments[2]);
        }
        ObjectMapper json = new ObjectMapper();
        flow.fromSource(FileSource.forRecordStreamFormat(new TextLineInputFormat(), files).build(),
                        WatermarkStrategy.noWatermarks(), "lines")
            .map(line -> json.readValue(line, Event.class)).returns(Event.class)
            .keyBy(event -> event.user_id, Types.STRING)
            .process(new Join())
            .sinkTo(FileSink.forRowFormat(new Path(arguments[3]),
                                          new SimpleStringEncoder<String>(StandardCharsets.UTF_8.name())).build())
            .setParallelism(1);
        flow.execute("carts");
    }
}
