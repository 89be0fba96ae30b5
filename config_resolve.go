package parley

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parley-bt/parley/internal/swarm"
	"github.com/parley-bt/parley/wire"
)

// Version is the version of this module.
const Version = "0.1.0-dev"

// peerIDPrefix begins our peer IDs, in the style of Azureus: client, version 0.1.0, 0.
const peerIDPrefix = "-PY0100-"

// defaultConnections is Config.MaxConnections if it is 0: of the files that may be open half are left to content and everything else.
func defaultConnections(maxPeers int) int {
	n := max(2000, maxPeers)
	if files, ok := maxOpenFiles(); ok {
		n = min(n, max(16, files/2))
	}
	return n
}

// resolved returns cfg with every zero replaced by its default. It is the one place that knows the defaults.
func (cfg Config) resolved() (Config, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if cfg.ListenAddr == "" {
		cfg.ListenAddr = ":0"
	}
	if cfg.ClientName == "" {
		cfg.ClientName = "Parley " + Version
	}
	if cfg.Logger == nil {
		cfg.Logger = discard
	}
	def(&cfg.MaxPeers, 200)
	def(&cfg.MaxHandshakes, 512)
	def(&cfg.MaxConnections, defaultConnections(cfg.MaxPeers))
	def(&cfg.MaxHalfOpen, swarm.DefaultHalfOpen)
	cfg.nearPerAddress, cfg.nearHandshakes = cfg.MaxPerAddress, cfg.MaxHandshakesPerAddress
	def(&cfg.MaxPerAddress, 4)
	def(&cfg.MaxHandshakesPerAddress, max(1, cfg.MaxHandshakes/8))
	def(&cfg.UploadSlots, 8)
	def(&cfg.BufferBytes, 64<<20)
	def(&cfg.MaxMessageBytes, 65534)
	def(&cfg.SendQueueBytes, 1<<20)
	def(&cfg.ReceiveQueueBytes, 1<<20)
	def(&cfg.MaxRequests, wire.DefaultRequests)
	def(&cfg.MessageMemoryBytes, 256<<20)
	if w := cfg.MessageWindowBytes; w != 0 && (w < wire.MinWindow || w > wire.MaxWindow) {
		return cfg, fmt.Errorf("config: MessageWindowBytes is %d, want 0 or %d to %d", w, wire.MinWindow, wire.MaxWindow)
	}
	if cfg.HandlerTimeout == 0 {
		cfg.HandlerTimeout = 30 * time.Second
	}
	for _, f := range []struct {
		name   string
		v, max int
	}{
		{"MaxPeers", cfg.MaxPeers, 1 << 20}, {"MaxHandshakes", cfg.MaxHandshakes, 1 << 20}, {"UploadSlots", cfg.UploadSlots, 1 << 20},
		{"MaxConnections", cfg.MaxConnections, 1 << 20}, {"MaxHalfOpen", cfg.MaxHalfOpen, 1 << 16},
		{"MaxPerAddress", cfg.MaxPerAddress, 1 << 20}, {"MaxHandshakesPerAddress", cfg.MaxHandshakesPerAddress, 1 << 20},
		{"BufferBytes", cfg.BufferBytes, 1 << 40 >> 10}, {"MaxMessageBytes", cfg.MaxMessageBytes, wire.MaxExtendedFrame - 2},
		{"MessageMemoryBytes", cfg.MessageMemoryBytes, 1 << 40 >> 10},
		{"SendQueueBytes", cfg.SendQueueBytes, 1 << 30}, {"ReceiveQueueBytes", cfg.ReceiveQueueBytes, 1 << 30},
	} {
		if f.v < 1 || f.v > f.max {
			return cfg, fmt.Errorf("config: %s is %d, want 1 to %d", f.name, f.v, f.max)
		}
	}
	cfg.AllowNetworks = slices.Clone(cfg.AllowNetworks)
	for i, p := range cfg.AllowNetworks {
		if !p.IsValid() {
			return cfg, fmt.Errorf("config: AllowNetworks[%d] is no network", i)
		}
	}
	for _, f := range []struct {
		name string
		v    int
	}{{"MaxUploads", cfg.MaxUploads}, {"MaxActiveDownloads", cfg.MaxActiveDownloads}, {"MaxActiveSeeds", cfg.MaxActiveSeeds}} {
		if f.v < 0 {
			return cfg, fmt.Errorf("config: %s is %d, want 0 for any number, or more", f.name, f.v)
		}
	}
	if err := cmp.Or(checkLimit("UploadLimit", cfg.UploadLimit), checkLimit("DownloadLimit", cfg.DownloadLimit), checkGoal(cfg.SeedRatio, cfg.SeedTime, false)); err != nil {
		return cfg, fmt.Errorf("config: %w", err)
	}
	if err := cmp.Or(checkHellos("AcceptHellos", cfg.AcceptHellos), checkHellos("DialHellos", cfg.DialHellos)); err != nil {
		return cfg, err
	}
	cfg.AcceptHellos, cfg.DialHellos = slices.Clone(cfg.AcceptHellos), slices.Clone(cfg.DialHellos)
	if cfg.accept = wire.HellosOf(cfg.AcceptHellos...); len(cfg.AcceptHellos) == 0 {
		cfg.accept = wire.AllHellos
	}
	if cfg.MSE > MSEOnlyRC4 {
		return cfg, fmt.Errorf("config: MSE is %d, want MSEAny or MSEOnlyRC4", cfg.MSE)
	}
	if n := len(cfg.Identity); n != 0 && n != ed25519.PrivateKeySize {
		return cfg, fmt.Errorf("config: Identity has %d bytes, want an Ed25519 private key of %d", n, ed25519.PrivateKeySize)
	}
	if cfg.HandlerTimeout < 0 {
		return cfg, fmt.Errorf("config: HandlerTimeout is %v, want more than 0", cfg.HandlerTimeout)
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = time.Second
	}
	if cfg.StopTimeout < 0 || cfg.StopTimeout > time.Minute {
		return cfg, fmt.Errorf("config: StopTimeout is %v, want 0 for a second, or up to a minute", cfg.StopTimeout)
	}
	if cfg.LocalDiscovery && cfg.NoListen {
		return cfg, errors.New("config: LocalDiscovery with NoListen: want a listener that others can be told of")
	}
	if len(cfg.ClientName) > 128 {
		return cfg, fmt.Errorf("config: ClientName has %d bytes, want at most 128", len(cfg.ClientName))
	}
	return cfg, nil
}
