// Package testserver stands in for the Kubernetes package of that name while its storage tests are
// compiled: same functions, but the server is a program of its own, started once per test.
//
// The environment says which one:
//   - NETSY_BIN: the program
//   - NETSY_SERVER_ARGS: a file of arguments, see conformance/servers/README.md
package testserver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// How long a server may take from its start to its first answer. The machine may be busy building.
const readyWithin = 60 * time.Second

var placeholder = regexp.MustCompile(`\{([a-z_]+)\}`)

// Ports are picked by asking the kernel and letting go again, so only one server at a time may be
// between picking and listening.
var portPicking sync.Mutex

// NewTestConfig gives a configuration with free loopback ports and a folder of its own. Of its fields
// RunEtcd reads the ports, the folder, WatchProgressNotifyInterval and QuotaBackendBytes.
func NewTestConfig(t testing.TB) *embed.Config {
	t.Helper()
	cfg := embed.NewConfig()
	client, peer := freeURL(t), freeURL(t)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.Dir = filepath.Join(t.TempDir(), "data")
	return cfg
}

// RunEtcd starts the server, waits until it answers, and gives a client for it. Both end with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	portPicking.Lock()
	defer portPicking.Unlock()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	server := start(t, cfg)
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{cfg.ListenClientUrls[0].String()},
		DialTimeout: 10 * time.Second,
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.FatalLevel)),
	})
	if err != nil {
		t.Fatalf("make a client for %s: %v", cfg.ListenClientUrls[0].Host, err)
	}
	t.Cleanup(func() { client.Close() })
	server.awaitReady(t, client.Client)

	lists := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, lists)
	client.Kubernetes = lists
	return client
}

type process struct {
	log    bytes.Buffer  // what it printed; read only once ended is closed
	ended  chan struct{} // closed when the process is gone
	result error         // set before ended is closed
}

func start(t testing.TB, cfg *embed.Config) *process {
	t.Helper()
	program := os.Getenv("NETSY_BIN")
	if program == "" {
		t.Fatal("NETSY_BIN is empty: set it to the server program to test")
	}
	values := map[string]string{
		"data":   cfg.Dir,
		"client": cfg.ListenClientUrls[0].Host,
		"peer":   cfg.ListenPeerUrls[0].Host,
	}
	if usual := embed.NewConfig(); cfg.WatchProgressNotifyInterval != usual.WatchProgressNotifyInterval {
		values["progress_interval"] = cfg.WatchProgressNotifyInterval.String()
	}
	if cfg.QuotaBackendBytes > 0 {
		values["quota_bytes"] = strconv.FormatInt(cfg.QuotaBackendBytes, 10)
	}
	argsFile := os.Getenv("NETSY_SERVER_ARGS")
	configTemplate := strings.TrimSuffix(argsFile, ".args") + ".jsonc"
	if _, err := os.Stat(configTemplate); err == nil {
		lines, err := filled(configTemplate, values)
		if err != nil {
			t.Fatal(err)
		}
		values["config"] = cfg.Dir + ".jsonc"
		if err := os.WriteFile(values["config"], []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args, err := filled(argsFile, values)
	if err != nil {
		t.Fatalf("NETSY_SERVER_ARGS: %v", err)
	}

	p := &process{ended: make(chan struct{})}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	// The kernel ends the server when the thread that started it ends, hence the locked thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		close(started)
		p.result = cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	t.Cleanup(func() {
		select {
		case <-p.ended:
			t.Errorf("the server ended before its test did (%v); it printed:\n%s", p.result, p.log.String())
		default:
			cmd.Process.Kill()
			<-p.ended
		}
		if t.Failed() && os.Getenv("NETSY_SERVER_LOG") != "" {
			t.Logf("server log:\n%s", p.log.String())
		}
	})
	return p
}

func (p *process) awaitReady(t testing.TB, client *clientv3.Client) {
	t.Helper()
	deadline := time.Now().Add(readyWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := client.Get(ctx, "ready?")
		cancel()
		if err == nil {
			if answer.Header.Revision != 1 {
				t.Fatalf("a new server is at revision %d, the tests need 1", answer.Header.Revision)
			}
			return
		}
		select {
		case <-p.ended:
			t.Fatalf("the server ended before it was ready (%v); it printed:\n%s", p.result, p.log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server gave no answer within %s: %v", readyWithin, err)
		}
	}
}

// The lines of a template with its placeholders filled in.
func filled(file string, values map[string]string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var lines []string
lines:
	for _, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for _, found := range placeholder.FindAllStringSubmatch(line, -1) {
			value, known := values[found[1]]
			if !known {
				continue lines
			}
			line = strings.ReplaceAll(line, found[0], value)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s has no line in it", file)
	}
	return lines, nil
}

func freeURL(t testing.TB) url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer listener.Close()
	return url.URL{Scheme: "http", Host: listener.Addr().String()}
}
