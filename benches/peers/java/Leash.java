/** Ends this process when whoever started it is gone, for its standard input closes then; and after a quarter of an hour. */
final class Leash {
  private static final long MOST_MS = 15 * 60 * 1000;

  private Leash() {}

  static void hold() {
    daemon(() -> {
      while (System.in.read() >= 0) {}
      Runtime.getRuntime().halt(0);
    });
    daemon(() -> {
      Thread.sleep(MOST_MS);
      System.err.println("its time is up");
      Runtime.getRuntime().halt(3);
    });
  }

  private interface Work {
    void run() throws Exception;
  }

  private static void daemon(Work work) {
    Thread thread = new Thread(() -> {
      try {
        work.run();
      } catch (Exception e) {
        Runtime.getRuntime().halt(4);
      }
    }, "leash");
    thread.setDaemon(true);
    thread.start();
  }
}
