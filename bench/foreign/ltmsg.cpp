// One-way BEP 10 messages through libtorrent's plugin interface, driven over the standard streams:
//
//     ltmsg recv|send TORRENT DIR N SIZE
//
// It prints "READY HOST:PORT"; the sender waits for a line "go HOST:PORT". When all N messages of SIZE bytes are through, the
// receiver prints "RECV SECONDS CPU_SECONDS" (from its first message to its last) and the sender "SEND SECONDS CPU_SECONDS" (from its
// first message to the last acknowledgement). It ends when its standard input does.
//
// peer_connection_handle::send_buffer never pushes back, so the sender keeps a window of 1 MiB (64 to 8,192 messages; of large ones 4 MiB,
// which is faster than more) and the receiver acknowledges every quarter of it.
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <thread>

using namespace lt;
using mono = std::chrono::steady_clock;

static bool receiving;
static long total;
static int message_bytes;
static long window_, ack_every;

static double cpu() {
	rusage r;
	getrusage(RUSAGE_SELF, &r);
	return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

struct pump_peer : peer_plugin {
	peer_connection_handle conn;
	int their_id = 0;
	long got = 0, sent = 0, acked = 0;
	mono::time_point start;
	double cpu_start = 0;
	std::vector<char> frame, payload = std::vector<char>(message_bytes);

	explicit pump_peer(peer_connection_handle h) : conn(std::move(h)) {}

	void begin() { start = mono::now(); cpu_start = cpu(); }
	void report(char const* word) {
		std::printf("%s %.6f %.6f\n", word, std::chrono::duration<double>(mono::now() - start).count(), cpu() - cpu_start);
		std::fflush(stdout);
	}
	void add_handshake(entry& h) override { h["m"]["bench_msg"] = 20; }

	void put(char const* p, int n) { // length (4), 20, extended id, payload
		std::uint32_t const l = n + 2;
		frame.resize(6);
		frame[0] = char(l >> 24); frame[1] = char(l >> 16); frame[2] = char(l >> 8); frame[3] = char(l);
		frame[4] = 20; frame[5] = char(their_id);
		frame.insert(frame.end(), p, p + n);
		conn.send_buffer(frame.data(), int(frame.size()));
	}
	void pump() {
		while (sent < total && sent - acked < window_) { put(payload.data(), message_bytes); ++sent; }
	}
	bool on_extension_handshake(bdecode_node const& h) override {
		auto m = h.dict_find_dict("m");
		if (!m) return false;
		their_id = int(m.dict_find_int_value("bench_msg", 0));
		if (their_id == 0) return false;
		if (!receiving) { begin(); pump(); }
		return true;
	}
	bool on_extended(int length, int msg, span<char const> body) override {
		if (msg != 20) return false;
		if (int(body.size()) < length) return true; // more of it is to come
		if (receiving) {
			if (length != message_bytes) { std::printf("ERR message of %d bytes\n", length); std::fflush(stdout); _exit(1); }
			if (++got == 1) begin();
			if (got % ack_every == 0 || got == total) {
				std::int64_t const g = got;
				put(reinterpret_cast<char const*>(&g), sizeof g);
			}
			if (got == total) report("RECV");
		} else {
			std::int64_t g;
			if (length != int(sizeof g)) { std::printf("ERR acknowledgement of %d bytes\n", length); std::fflush(stdout); _exit(1); }
			std::memcpy(&g, body.data(), sizeof g);
			acked = g;
			pump();
			if (acked == total) report("SEND");
		}
		return true;
	}
};

struct pump_torrent : torrent_plugin {
	std::shared_ptr<peer_plugin> new_connection(peer_connection_handle const& c) override { return std::make_shared<pump_peer>(c); }
};

int main(int argc, char** argv) {
	if (argc != 6) { std::fprintf(stderr, "usage: ltmsg recv|send TORRENT DIR N SIZE\n"); return 2; }
	receiving = !std::strcmp(argv[1], "recv");
	total = std::atol(argv[4]);
	message_bytes = std::atoi(argv[5]);
	if (total < 1 || message_bytes < 1) { std::fprintf(stderr, "ltmsg: N and SIZE are at least 1\n"); return 2; }
	window_ = std::min(8192L, std::max(std::clamp((4L << 20) / message_bytes, 4L, 64L), (1L << 20) / message_bytes));
	ack_every = window_ / 4;

	settings_pack s;
	s.set_str(settings_pack::listen_interfaces, "127.0.0.1:0");
	for (auto k : {settings_pack::enable_dht, settings_pack::enable_lsd, settings_pack::enable_upnp, settings_pack::enable_natpmp,
			settings_pack::enable_incoming_utp, settings_pack::enable_outgoing_utp})
		s.set_bool(k, false);
	s.set_int(settings_pack::in_enc_policy, settings_pack::pe_disabled);
	s.set_int(settings_pack::out_enc_policy, settings_pack::pe_disabled);
	s.set_bool(settings_pack::allow_multiple_connections_per_ip, true);
	session ses{session_params(s, {})};

	add_torrent_params p;
	p.ti = std::make_shared<torrent_info>(std::string(argv[2]));
	p.save_path = argv[3];
	p.flags &= ~(torrent_flags::auto_managed | torrent_flags::paused);
	p.extensions.push_back([](torrent_handle const&, client_data_t) {
		return std::static_pointer_cast<torrent_plugin>(std::make_shared<pump_torrent>());
	});
	auto h = ses.add_torrent(p);
	while (ses.listen_port() == 0 || h.status().state != torrent_status::downloading)
		std::this_thread::sleep_for(std::chrono::milliseconds(20));
	std::printf("READY 127.0.0.1:%d\n", int(ses.listen_port()));
	std::fflush(stdout);

	for (std::string line; std::getline(std::cin, line);) {
		auto const colon = line.rfind(':');
		if (line.compare(0, 3, "go ") == 0 && colon != std::string::npos)
			h.connect_peer({make_address_v4(line.substr(3, colon - 3)), std::uint16_t(std::stoi(line.substr(colon + 1)))});
	}
	_exit(0);
}
