import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.time.Instant;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;

/**
 * What a record of the load says about itself, so that whoever handles it can check order and count.
 *
 * @param key   below 1,000
 * @param seq   counts the records of the key, from 1
 * @param index counts the records of the topic, from 0
 */
record Mark(int key, long seq, long index) {
    private static final JsonFactory JSON = new JsonFactory();
    /** Keeps the compiler from leaving out that headers are read. */
    private static volatile int sink;

    /** Reads a record as deeply as the other variants do: each field of the Envelope is checked, headers are looked at. */
    static Mark read(byte[] value, Headers headers) {
        int bytes = 0;
        for (Header header : headers) {
            bytes += header.key().length();
        }
        if (bytes < 0) {
            sink = bytes;
        }
        Mark mark = null;
        int fields = 0;
        try (JsonParser parser = JSON.createParser(value)) {
            require(parser.nextToken() == JsonToken.START_OBJECT);
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                parser.nextToken();
                switch (name) {
                    case "event_id", "event_type" -> require(!parser.getText().isBlank());
                    case "aggregate_id" -> require(isAggregateId(parser.getText()));
                    case "event_version" -> require(parser.getLongValue() > 0);
                    case "timestamp" -> Instant.parse(parser.getText());
                    case "payload" -> mark = payload(parser);
                    default -> {
                        parser.skipChildren();
                        fields--;
                    }
                }
                fields++;
            }
        } catch (IOException error) {
            throw new IllegalArgumentException(error);
        }
        require(fields == 6 && mark != null);
        return mark;
    }

    private static Mark payload(JsonParser parser) throws IOException {
        Mark mark = null;
        require(parser.currentToken() == JsonToken.START_OBJECT);
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
            boolean isMark = parser.currentName().equals("at");
            parser.nextToken();
            if (isMark) {
                parser.nextToken();
                int key = parser.getIntValue();
                parser.nextToken();
                long seq = parser.getLongValue();
                parser.nextToken();
                mark = new Mark(key, seq, parser.getLongValue());
                parser.nextToken();
            } else {
                parser.skipChildren();
            }
        }
        return mark;
    }

    private static boolean isAggregateId(String id) {
        return !id.isEmpty() && id.length() <= 256 && id.chars().allMatch(c ->
                c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || ":_-./".indexOf(c) >= 0);
    }

    private static void require(boolean holds) {
        if (!holds) {
            throw new IllegalArgumentException("the load is valid Envelopes");
        }
    }
}
