#!/usr/bin/python3
"""A libtorrent peer that is driven over its standard streams.

    lt_peer.py seed|leech TORRENT DIR [--rc4] [--set name=value ...]
    lt_peer.py verify TORRENT DIR            compares the content with its hashes, on two threads: "VERIFIED SECONDS CPU_SECONDS"
    lt_peer.py first_s|start_s FOLDER DIR    seeds every .torrent of FOLDER: "SEEDING N"; with start_s nothing is hashed

With --rc4 it neither dials nor accepts peers but by MSE with RC4. It prints "READY HOST:PORT" when it listens (a seeder: when it has verified its data). A leecher then waits for a line
"go HOST:PORT", adds the torrent with that peer, and prints "DONE SECONDS" when everything is verified. A line "gc" returns free
memory to the system and is answered with "GC". It ends when its standard input does. "ERR text" reports an error.
"""
import argparse
import ctypes
import glob
import os
import resource
import sys
import threading
import time

import libtorrent as lt

ap = argparse.ArgumentParser()
ap.add_argument('mode', choices=['seed', 'leech', 'verify', 'first_s', 'start_s'])
ap.add_argument('torrent')
ap.add_argument('dir')
ap.add_argument('--rc4', action='store_true')
ap.add_argument('--set', action='append', default=[])
a = ap.parse_args()

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

settings = {
    'listen_interfaces': '127.0.0.1:0',
    'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
    'enable_incoming_utp': False, 'enable_outgoing_utp': False, 'enable_incoming_tcp': True,
    'allow_multiple_connections_per_ip': True,
    'in_enc_policy': int(lt.enc_policy.disabled), 'out_enc_policy': int(lt.enc_policy.disabled),
    'alert_mask': lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
}
if a.rc4:
    settings.update(in_enc_policy=int(lt.enc_policy.forced), out_enc_policy=int(lt.enc_policy.forced), allowed_enc_level=int(lt.enc_level.rc4))
for kv in a.set:
    k, v = kv.split('=', 1)
    settings[k] = (v == 'true') if v in ('true', 'false') else int(v) if v.lstrip('-').isdigit() else v
if a.mode in ('verify', 'first_s', 'start_s'):
    settings['hashing_threads'] = 2
session = lt.session(settings)


def say(*words):
    print(*words, flush=True)


def add(torrent=a.torrent, seed_mode=False):
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    if seed_mode:
        params.flags |= lt.torrent_flags.seed_mode
    params.save_path = a.dir
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.max_connections = 20000
    return session.add_torrent(params)


def until(kind):
    """Handles alerts until one of the given kind comes."""
    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, kind):
                return
            if isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert, lt.listen_failed_alert)):
                say('ERR', alert.message())


def leech(peer):
    host, port = peer.rsplit(':', 1)
    start = time.monotonic()
    add().connect_peer((host, int(port)))
    until(lt.torrent_finished_alert)
    say('DONE %.3f' % (time.monotonic() - start))


if a.mode == 'verify':
    start, cpu = time.monotonic(), time.process_time()
    add()
    until(lt.torrent_finished_alert)
    say('VERIFIED %.6f %.6f' % (time.monotonic() - start, time.process_time() - cpu))
    sys.stdin.read()
    os._exit(0)
elif a.mode in ('first_s', 'start_s'):
    paths = sorted(glob.glob(os.path.join(a.torrent, '*.torrent')))
    waiting = [add(path, a.mode == 'start_s') for path in paths]
    while waiting:
        waiting = [h for h in waiting if not h.status().is_seeding]
        time.sleep(0.01)
    say('SEEDING', len(paths))
    sys.stdin.read()
    os._exit(0)
elif a.mode == 'seed':
    handle = add()
    while not handle.status().is_seeding:
        time.sleep(0.02)
else:
    while session.listen_port() == 0:
        time.sleep(0.02)
say('READY 127.0.0.1:%d' % session.listen_port())

for line in sys.stdin:
    word = line.split()
    if word and word[0] == 'go':
        threading.Thread(target=leech, args=(word[1],), daemon=True).start()
    elif word and word[0] == 'gc':
        ctypes.CDLL(None).malloc_trim(0)
        say('GC')
os._exit(0)
