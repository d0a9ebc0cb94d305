"""A worker that fetches its work: it needs no address of its own.
usage: OMNILINK_URL=http://127.0.0.1:7700 OMNILINK_KEY=omni.… python pull_worker.py TOOL…"""
import json, os, sys, threading, time, urllib.error, urllib.request


def post(path, body, timeout=60):
    headers = {"authorization": "Bearer " + os.environ["OMNILINK_KEY"], "content-type": "application/json"}
    request = urllib.request.Request(os.environ["OMNILINK_URL"] + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)


def work(task):  # with task["idempotency_key"], which is the same whenever the same call comes again
    time.sleep(task["input"].get("seconds", 0))
    return {"outcome": "succeeded", "output": {"done": task["input"]}}


def keep(lease, done):
    while not done.wait(LEASE_S / 3):
        try:
            post("/v1/tasks/heartbeat", lease, timeout=LEASE_S / 3)
        except OSError as error:  # 409: somebody else has the task now
            print(error, file=sys.stderr)


LEASE_S = int(os.environ.get("LEASE_S", 30))
while True:
    try:
        claim = {"tools": sys.argv[1:], "wait_s": 20, "lease_s": LEASE_S}
        for task in post("/v1/tasks/claim", claim)["tasks"]:
            lease, done = {"task_id": task["task_id"], "lease": task["lease"]}, threading.Event()
            threading.Thread(target=keep, args=[lease, done], daemon=True).start()
            outcome = work(task)
            done.set()
            post("/v1/tasks/complete", lease | outcome)  # if this fails, the task comes again
    except OSError as error:
        print(error, file=sys.stderr)
        time.sleep(2)
