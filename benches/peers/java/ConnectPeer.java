import org.apache.kafka.connect.cli.ConnectStandalone;

/** Kafka Connect, standalone: {@code ConnectPeer WORKER CONNECTOR}, a file of properties each. */
public final class ConnectPeer {
  public static void main(String[] args) {
    Leash.hold();
    ConnectStandalone.main(args);
  }
}
