/** A record whose handler was to fail, and did. */
final class Planted extends Exception {
    Planted() {
        super("planted", null, false, false);
    }
}
