#!/usr/bin/python3
"""A libtorrent peer for the interop tests.

  lt_peer.py create PATH OUT [--hybrid] [--piece-size N]
  lt_peer.py run (--torrent FILE | --magnet URI) --dir DIR [--peer HOST:PORT] [--enc disabled|default|forced]
             [--level rc4|plaintext|both] [--seed-mode] [--upload-rate BYTES] [--tracker URL] [--dht-node HOST:PORT]

Prints one JSON object per line and ends when its standard input does. `run` reports: listening (port), added, metadata,
handshaken (seconds since the torrent was added, and whether the session is encrypted), seeding, complete (everything is
verified and handed to the operating system), error.
"""
import argparse
import json
import os
import sys
import threading
import time

import libtorrent as lt

started = time.monotonic()


def emit(event, **fields):
    # One write per line: the reader thread and the main loop both print.
    sys.stdout.write(json.dumps({"event": event, "secs": round(time.monotonic() - started, 3), **fields}) + "\n")
    sys.stdout.flush()


def create(args):
    storage = lt.file_storage()
    lt.add_files(storage, args.path)
    # Without v1_only libtorrent 2 makes a hybrid torrent, padded to piece boundaries.
    flags = 0 if args.hybrid else lt.create_torrent.v1_only
    made = lt.create_torrent(storage, args.piece_size, flags)
    lt.set_piece_hashes(made, os.path.dirname(os.path.abspath(args.path)))
    with open(args.out, "wb") as out:
        out.write(lt.bencode(made.generate()))
    info = lt.torrent_info(args.out)
    hashes = info.info_hashes()
    emit("created", infohash=str(hashes.v1), v1=hashes.has_v1(), v2=hashes.has_v2())


def settings(args):
    s = {
        "listen_interfaces": "127.0.0.1:0",
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "allow_multiple_connections_per_ip": True,
        "connections_limit": 1000, "unchoke_slots_limit": 1000,
        "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification
        | lt.alert.category_t.connect_notification | lt.alert.category_t.tracker_notification | lt.alert.category_t.storage_notification,
    }
    policy = {"disabled": lt.enc_policy.disabled, "forced": lt.enc_policy.forced}.get(args.enc)
    if policy is not None:  # else: as libtorrent comes, which tries an encrypted hello first
        s["in_enc_policy"] = s["out_enc_policy"] = int(policy)
    if args.level:
        s["allowed_enc_level"] = int({"rc4": lt.enc_level.rc4, "plaintext": lt.enc_level.plaintext, "both": lt.enc_level.both}[args.level])
        s["prefer_rc4"] = args.level == "rc4"
    if args.dht_node:
        # All nodes are on one address, which libtorrent takes for one liar by default.
        s.update({"enable_dht": True, "dht_bootstrap_nodes": args.dht_node, "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
                  "dht_ignore_dark_internet": False, "dht_prefer_verified_node_ids": False})
    if args.upload_rate:
        s["upload_rate_limit"] = args.upload_rate
        s["rate_limit_ip_overhead"] = False
    return s


def run(args):
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    session = lt.session(settings(args))
    if args.upload_rate:
        # Without this libtorrent does not limit peers of the local network, which loopback is.
        classes = lt.ip_filter()
        classes.add_rule("0.0.0.0", "255.255.255.255", 1 << lt.session.global_peer_class_id)
        session.set_peer_class_filter(classes)
    params = lt.parse_magnet_uri(args.magnet) if args.magnet else lt.add_torrent_params()
    if args.torrent:
        params.ti = lt.torrent_info(args.torrent)
    if args.tracker:
        params.trackers = [args.tracker]
    params.save_path = args.dir
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if args.seed_mode:
        params.flags |= lt.torrent_flags.seed_mode
    emit("listening", port=session.listen_port(), libtorrent=lt.version)
    added = time.monotonic()
    handle = session.add_torrent(params)
    emit("added")
    if args.peer:
        host, port = args.peer.rsplit(":", 1)
        handle.connect_peer((host, int(port)))

    said = set()

    def once(event, **fields):
        if event not in said:
            said.add(event)
            emit(event, **fields)

    complete = False
    while True:
        session.wait_for_alert(50)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.metadata_received_alert):
                once("metadata")
            elif isinstance(alert, lt.torrent_finished_alert):
                # Finished means verified; only the flush says that every block has left libtorrent's buffers.
                complete = True
                handle.flush_cache()
            elif isinstance(alert, lt.cache_flushed_alert) and complete:
                once("complete")
            elif isinstance(alert, (lt.torrent_error_alert, lt.file_error_alert, lt.metadata_failed_alert)):
                emit("error", message=alert.message())
            elif isinstance(alert, lt.tracker_reply_alert):
                once("tracker", peers=alert.num_peers)
            elif isinstance(alert, lt.tracker_error_alert):
                emit("tracker_error", message=alert.message())
            elif isinstance(alert, lt.dht_reply_alert):
                once("dht", peers=alert.num_peers)
            elif isinstance(alert, (lt.peer_error_alert, lt.peer_disconnected_alert)):
                emit("peer", message=alert.message())
        if "handshaken" not in said:
            for p in handle.get_peer_info():
                if not p.flags & (lt.peer_info.handshake | lt.peer_info.connecting):
                    once("handshaken", after=round(time.monotonic() - added, 3), client=p.client.decode("utf-8", "replace")
                         if isinstance(p.client, bytes) else p.client, encrypted=bool(p.flags & lt.peer_info.rc4_encrypted))
        if "seeding" not in said and handle.status().is_seeding:
            once("seeding")


def main():
    ap = argparse.ArgumentParser()
    sub = ap.add_subparsers(dest="mode", required=True)
    c = sub.add_parser("create")
    c.add_argument("path")
    c.add_argument("out")
    c.add_argument("--hybrid", action="store_true")
    c.add_argument("--piece-size", type=int, default=0)
    c.set_defaults(func=create)
    r = sub.add_parser("run")
    source = r.add_mutually_exclusive_group(required=True)
    source.add_argument("--torrent")
    source.add_argument("--magnet")
    r.add_argument("--dir", required=True)
    r.add_argument("--peer")
    r.add_argument("--tracker")
    r.add_argument("--dht-node")
    r.add_argument("--enc", choices=["disabled", "default", "forced"], default="disabled")
    r.add_argument("--level", choices=["rc4", "plaintext", "both"])
    r.add_argument("--seed-mode", action="store_true")
    r.add_argument("--upload-rate", type=int, default=0)
    r.set_defaults(func=run)
    args = ap.parse_args()
    args.func(args)


main()
