#!/usr/bin/python3
"""What libtorrent makes of v2 and hybrid torrents, for the interop tests.

  lt_v2.py create PATH OUT (v2|hybrid) PIECE_SIZE
  lt_v2.py read FILE
  lt_v2.py check FILE DIR

Each prints one JSON object per line: `torrent` with what the file says, `magnet` with what libtorrent reads out of the magnet
link that is given to `magnet`, `checked` with how much of the content in DIR is right.

  lt_v2.py magnet URI
"""
import json
import os
import sys
import time

import libtorrent as lt


def emit(event, **fields):
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def tell(path):
    info = lt.torrent_info(path)
    hashes = info.info_hashes()
    files = info.files()
    emit("torrent", v1=str(hashes.v1) if hashes.has_v1() else "", v2=str(hashes.v2) if hashes.has_v2() else "",
         pieces=info.num_pieces(), name=info.name(), magnet=lt.make_magnet_uri(info),
         files=[{"path": files.file_path(i), "length": files.file_size(i), "root": str(files.root(i))}
                for i in range(files.num_files()) if not files.file_flags(i) & lt.file_flags_t.flag_pad_file])


def create(path, out, form, piece_size):
    storage = lt.file_storage()
    lt.add_files(storage, path)
    made = lt.create_torrent(storage, int(piece_size), lt.create_torrent.v2_only if form == "v2" else 0)
    lt.set_piece_hashes(made, os.path.dirname(os.path.abspath(path)))
    with open(out, "wb") as f:
        f.write(lt.bencode(made.generate()))
    tell(out)


def check(path, folder):
    session = lt.session({"listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
                          "enable_natpmp": False})
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(path)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(params)
    end = time.monotonic() + 50
    while time.monotonic() < end:
        status = handle.status()
        if status.errc.value() != 0:
            emit("checked", error=status.errc.message(), seeding=False, progress=status.progress)
            return
        if status.state not in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
            emit("checked", error="", seeding=status.is_seeding, progress=status.progress)
            return
        time.sleep(0.02)
    emit("checked", error="still checking", seeding=False, progress=0)


def magnet(uri):
    hashes = lt.parse_magnet_uri(uri).info_hashes
    emit("magnet", v1=str(hashes.v1) if hashes.has_v1() else "", v2=str(hashes.v2) if hashes.has_v2() else "")


{"create": create, "read": tell, "check": check, "magnet": magnet}[sys.argv[1]](*sys.argv[2:])
