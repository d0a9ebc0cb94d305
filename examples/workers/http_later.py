"""A worker whose calls take long: it answers 202, and completes the task later.
usage: OMNILINK_URL=http://127.0.0.1:7700 OMNILINK_KEY=omni.… python http_later.py PORT"""
import json, os, sys, threading, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def work(call):
    time.sleep(0.2)  # what takes long
    outcome = {"outcome": "succeeded", "output": {"report": call["input"]["name"] + ".pdf"}}
    complete = {"task_id": call["task_id"], "lease": call["lease"], **outcome}
    headers = {"authorization": "Bearer " + os.environ["OMNILINK_KEY"], "content-type": "application/json"}
    url = os.environ["OMNILINK_URL"] + "/v1/tasks/complete"
    for pause in (1, 2, 4, 8, 16):  # completing twice does no harm
        try:
            request = urllib.request.Request(url, json.dumps(complete).encode(), headers)
            return urllib.request.urlopen(request, timeout=10).read()
        except OSError as error:
            print(error, file=sys.stderr)
            time.sleep(pause)


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        threading.Thread(target=work, args=[call]).start()
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Worker).serve_forever()
