#!/usr/bin/env python3
"""What TLS costs: CPU for a delivery, memory for a session, time for a connect, beside the same without it.

    benches/tls.py                          1,000 and 5,000 subscribers, five rounds of each
    benches/tls.py --profile quick --rounds 1 --subscribers 200 --deliveries 20000    to try it

Each round starts a daemon of its own, loads it plainly and starts another that is loaded over TLS, so that what
the host does meanwhile meets both. It builds the daemon and makes a certificate with openssl.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

KEY = "app.key:hush"
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def build(profile):
    subprocess.run(["cargo", "build", "--profile", profile, "--bin", "ringcast"], cwd=REPOSITORY, check=True)
    return REPOSITORY / "target" / profile / "ringcast"


def certificate(directory):
    """An authority and a certificate of it for 127.0.0.1; returns a configuration that names it."""
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for arguments in (
        ["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"],
        ["-subj", "/CN=bench", "-keyout", "key.pem", "-out", "cert.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"],
    ):
        subprocess.run(make + arguments, cwd=directory, check=True, stderr=subprocess.DEVNULL)
    config = directory / "ringcast.toml"
    config.write_text(f'[[keys]]\nkey = "{KEY}"\n[tls]\nlisten = "127.0.0.1:0"\n'
                      'certificate_file = "cert.pem"\nkey_file = "key.pem"\n')
    return config


def address(line, start):
    if not line.startswith(start):
        raise SystemExit(f"the daemon says {line!r} where `{start}` is wanted")
    return line.removeprefix(start).split()[0]


def measure(ringcast, config, secure, subscribers, messages, outstanding, shards):
    """Runs one load and returns the report of `ringcast bench`."""
    report = config.with_name("report.json")
    server = [ringcast, "serve", "--config", config, "--listen", "127.0.0.1:0", "--shards", str(shards)]
    process = subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        plain = address(process.stdout.readline(), "listening on ")
        tls = address(process.stdout.readline(), "TLS on ")
        bench = [ringcast, "bench", "--server", plain, "--key", KEY, "--pid", str(process.pid)]
        bench += ["--subscribers", str(subscribers), "--messages", str(messages)]
        bench += ["--outstanding", str(outstanding), "--json", report]
        bench += ["--tls", tls, "--tls-ca", config.with_name("ca.pem")] if secure else []
        subprocess.run(bench, check=True, stdout=subprocess.DEVNULL, timeout=600)
        return json.loads(report.read_text())
    finally:
        process.kill()
        process.wait()


def spread(values, form="{:.2f}"):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1_000, 5_000])
    parser.add_argument("--outstanding", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deliveries", type=int, default=500_000, help="of one run, about")
    parser.add_argument("--profile", default="release")
    parser.add_argument("--json", type=pathlib.Path, help="write every report to this file")
    args = parser.parse_args()
    ringcast = build(args.profile)
    reports = []
    header = ("subscribers", "outstanding", "us/delivery plain", "TLS", "ratio CPU", "ratio busy core",
              "bytes/conn plain", "TLS", "us/connect plain", "TLS")
    print(" | ".join(header))
    print(" | ".join("---" for _ in header))
    with tempfile.TemporaryDirectory() as directory:
        config = certificate(pathlib.Path(directory))
        for subscribers in args.subscribers:
            for outstanding in args.outstanding:
                messages = max(20, args.deliveries // subscribers * (1 if outstanding == 1 else 4))
                rows = []
                for _ in range(args.rounds):
                    load = (subscribers, messages, outstanding, args.shards)
                    rows.append([measure(ringcast, config, secure, *load) for secure in (False, True)])
                    reports.append({"plain": rows[-1][0], "tls": rows[-1][1], "shards": args.shards})
                of = lambda name, at, form="{:.2f}": spread([row[at][name] for row in rows], form)
                ratio = lambda name: spread([tls[name] / plain[name] for plain, tls in rows])
                print(" | ".join((
                    f"{subscribers:,}", str(outstanding),
                    of("server_us_per_delivery", 0), of("server_us_per_delivery", 1),
                    ratio("server_us_per_delivery"), ratio("busy_us_per_delivery"),
                    of("resident_bytes_per_connection", 0, "{:.0f}"), of("resident_bytes_per_connection", 1, "{:.0f}"),
                    of("server_us_per_connect", 0, "{:.0f}"), of("server_us_per_connect", 1, "{:.0f}"),
                )), flush=True)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
