package encryption

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"

	"github.com/etcd-rescue/etcd-rescue/codec"
)

const kmsKey = "/registry/secrets/ns/name"

// serverV1 is a kube-apiserver's transformer of KMS v1: before 1.25 it wrote
// CBC.
func serverV1(v *vault, cbc bool) value.Transformer {
	return envelope.NewEnvelopeTransformer(direct{v}, 10, func(block cipher.Block) (value.Transformer, error) {
		if cbc {
			return aestransformer.NewCBCTransformer(block), nil
		}
		return aestransformer.NewGCMTransformer(block)
	})
}

// serverV2 is one of KMS v2: since 1.29 it writes with a seed.
func serverV2(t *testing.T, v *vault, seed bool) value.Transformer {
	t.Helper()
	inner, object, cacheKey, err := kmsv2.GenerateTransformer(t.Context(), "uid", direct2{v}, seed)
	if err != nil {
		t.Fatal(err)
	}
	return kmsv2.NewEnvelopeTransformer(direct2{v}, "server-of-"+t.Name(), func() (kmsv2.State, error) {
		return kmsv2.State{
			Transformer: inner, EncryptedObjectKeyID: object.KeyID, EncryptedObjectEncryptedDEKSource: object.EncryptedDEKSource,
			EncryptedObjectAnnotations: object.Annotations, EncryptedObjectEncryptedDEKSourceType: object.EncryptedDEKSourceType,
			CacheKey: cacheKey, ExpirationTimestamp: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		}, nil
	}, "")
}

// servers are all ways in which a kube-apiserver has written with KMS.
func servers(t *testing.T, v *vault) map[string]value.Transformer {
	t.Helper()
	return map[string]value.Transformer{
		"v1 GCM": serverV1(v, false), "v1 CBC": serverV1(v, true), "v2 key": serverV2(t, v, false), "v2 seed": serverV2(t, v, true),
	}
}

// stored returns what a server stores at a key.
func stored(t *testing.T, server value.Transformer, version, key, plain string) []byte {
	t.Helper()
	data, err := server.TransformToStorage(t.Context(), []byte(plain), value.DefaultContext(key))
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s:enc:kms:"+version+":p:"), data...)
}

// TestKMSReads reads what servers have written, and asks the plugin no more
// than needed.
func TestKMSReads(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"v1 GCM": {"Version", "Decrypt", "Decrypt"}, "v1 CBC": {"Version", "Decrypt", "Decrypt"}, "v2 key": {"Decrypt"}, "v2 seed": {"Decrypt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			version := name[:2]
			c, v := kms(t, version, "")
			server, secrets := servers(t, v)[name], resource(t, "secrets")
			for i := range 2 {
				key, plain := fmt.Sprint(kmsKey, i), fmt.Sprint("k8s\x00 value ", i)
				data := stored(t, server, version, key, plain)
				for range 2 {
					got, err := c.Decrypt(t.Context(), secrets, key, data)
					if err != nil || string(got) != plain {
						t.Fatalf("got %q, %v", got, err)
					}
				}
				if moved, err := c.Decrypt(t.Context(), secrets, key+"x", data); err == nil && name != "v1 CBC" {
					t.Errorf("a value from another key is %q", moved)
				}
			}
			if diff := cmp.Diff(want, v.asked()); diff != "" {
				t.Errorf("requests, -want +got:\n%s", diff)
			}
		})
	}
}

// TestKMSWithoutCache asks again for every value.
func TestKMSWithoutCache(t *testing.T) {
	t.Parallel()
	c, v := kms(t, "v1", "cachesize: -1")
	data := stored(t, serverV1(v, false), "v1", kmsKey, "plain")
	for range 2 {
		if _, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"Version", "Decrypt", "Decrypt"}, v.asked()); diff != "" {
		t.Errorf("requests, -want +got:\n%s", diff)
	}
}

// TestKMSWrites lets a server read what is written here.
func TestKMSWrites(t *testing.T) {
	t.Parallel()
	for version, want := range map[string][]string{"v1": {"Version", "Encrypt", "Encrypt"}, "v2": {"Status", "Encrypt"}} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, v := kms(t, version, "")
			server := map[string]value.Transformer{"v1": serverV1(v, false), "v2": serverV2(t, v, true)}[version]
			for i := range 2 {
				plain := fmt.Sprint("k8s\x00 value ", i)
				out, err := c.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, []byte(plain))
				if err != nil {
					t.Fatal(err)
				}
				data, ok := strings.CutPrefix(string(out), "k8s:enc:kms:"+version+":p:")
				if !ok {
					t.Fatalf("written as %.30q", out)
				}
				got, _, err := server.TransformFromStorage(t.Context(), []byte(data), value.DefaultContext(kmsKey))
				if err != nil || string(got) != plain {
					t.Errorf("the server reads %q, %v", got, err)
				}
				got, err = c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, out)
				if err != nil || string(got) != plain {
					t.Errorf("read back as %q, %v", got, err)
				}
			}
			if diff := cmp.Diff(want, v.asked()); diff != "" {
				t.Errorf("requests, -want +got:\n%s", diff)
			}
		})
	}
}

// TestKMSKeyRotation takes the plugin's new key up, after asking for it once a
// minute.
func TestKMSKeyRotation(t *testing.T) {
	t.Parallel()
	c, v := kms(t, "v2", "")
	k := c.entries[0][0].Transformer.(*kmsV2)
	var later atomic.Int64
	k.now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	for i, step := range []struct {
		after time.Duration
		keyID string
		want  []string
	}{
		{0, "key-a", []string{"Status", "Encrypt"}},
		{statusEvery - time.Second, "key-b", nil},
		{2 * statusEvery, "key-b", []string{"Status", "Encrypt"}},
		{4 * statusEvery, "key-b", []string{"Status"}},
	} {
		v.set(func(v *vault) { v.keyID = step.keyID })
		later.Store(int64(step.after))
		if _, err := c.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, []byte("plain")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, v.asked()); diff != "" {
			t.Errorf("step %d: requests, -want +got:\n%s", i, diff)
		}
	}
	if got := k.write.sealed.KeyID; got != "key-b" {
		t.Errorf("written with %q", got)
	}
}

// TestKMSRefusesToWrite: a plugin that is not well gives no key to write with.
func TestKMSRefusesToWrite(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		version string
		change  func(*vault)
		want    string
	}{
		"unhealthy":   {"v2", func(v *vault) { v.healthz = "hsm\x1blost" }, `says about its health: "hsm\x1blost"`},
		"new version": {"v2", func(v *vault) { v.version = "v9" }, `speaks version "v9" instead of v2`},
		"no key":      {"v2", func(v *vault) { v.keyID = "" }, `gives a key that no kube-apiserver takes: "failed to validate key id: keyID is empty"`},
		"other key": {"v2", func(v *vault) {
			v.before = func(_ context.Context, method string, _ []byte) error {
				if method == "Encrypt" {
					v.set(func(v *vault) { v.keyID = "key-z" })
				}
				return nil
			}
		}, "encrypts with another key than the one it announces"},
		"error": {"v2", func(v *vault) {
			v.before = func(context.Context, string, []byte) error { return status.Error(codes.Internal, "no\nluck") }
		}, `refuses: Internal, "no\nluck"`},
		"old version": {"v1", func(v *vault) { v.version = "v1alpha1" }, `speaks version "v1alpha1" instead of v1beta1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, v := kms(t, tc.version, "")
			v.set(tc.change)
			out, err := c.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, []byte("plain"))
			want := fmt.Sprintf("encrypt by resources[0].providers[0] of %s: KMS plugin \"p\" at %s %s", c.Path(), c.plugins[0].endpoint, tc.want)
			if out != nil || err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// TestKMSDown dials a plugin that is not there once, for however many values.
func TestKMSDown(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "none")
			c := kmsAt(t, version, "unix://"+socket, "")
			var dials atomic.Int64
			c.plugins[0].dial = func(ctx context.Context, addr string) (net.Conn, error) {
				dials.Add(1)
				return dialUnix(ctx, addr)
			}
			v := &vault{keyID: "key-a"}
			server := map[string]value.Transformer{"v1": serverV1(v, false), "v2": serverV2(t, v, true)}[version]
			data := stored(t, server, version, kmsKey, "plain")
			why := fmt.Sprintf("resources[0].providers[0] of %s: KMS plugin \"p\" at unix://%s does not answer: dial unix %s: connect: no such file or directory", c.Path(), socket, socket)
			wantDecrypt := fmt.Sprintf("%s by provider kms:%s:p: %s", codec.ErrEncrypted, version, why)
			for range 1000 {
				_, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data)
				if err == nil || err.Error() != wantDecrypt || !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("got  %v\nwant %s", err, wantDecrypt)
				}
			}
			if _, err := c.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, nil); err == nil || err.Error() != "encrypt by "+why {
				t.Errorf("Encrypt: %v", err)
			}
			if n := dials.Load(); n != 1 {
				t.Errorf("%d dials, want 1", n)
			}
		})
	}
}

// TestKMSGivenUp sends no second request to a plugin that has not answered one.
func TestKMSGivenUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		timeout string
		before  func(context.Context, string, []byte) error
		want    string
	}{
		"hangs": {"10ms", func(ctx context.Context, _ string, _ []byte) error { <-ctx.Done(); return ctx.Err() },
			"does not answer: nothing came within 10ms"},
		"unavailable": {"1h", func(context.Context, string, []byte) error { return status.Error(codes.Unavailable, "no cloud") },
			`does not answer: "no cloud"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, v := kms(t, "v2", "timeout: "+tc.timeout)
			v.set(func(v *vault) { v.before = tc.before })
			data := stored(t, serverV2(t, v, true), "v2", kmsKey, "plain")
			for range 100 {
				_, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data)
				if err == nil || !strings.HasSuffix(err.Error(), tc.want) {
					t.Fatalf("got %v, want %s", err, tc.want)
				}
			}
			// None at all if connecting took that long already.
			if n := len(v.asked()); n > 1 {
				t.Errorf("%d requests, want one at most", n)
			}
		})
	}
}

// TestKMSOneBadValue: that a plugin refuses one value says nothing about the
// next.
func TestKMSOneBadValue(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, v := kms(t, version, "")
			transformer := func() value.Transformer {
				return map[string]value.Transformer{"v1": serverV1(v, false), "v2": serverV2(t, v, true)}[version]
			}
			good := stored(t, transformer(), version, kmsKey, "plain")
			v.set(func(v *vault) {
				v.keyID = "lost"
				v.before = func(_ context.Context, method string, sealed []byte) error {
					if strings.HasPrefix(string(sealed), "lost/") {
						return status.Error(codes.NotFound, "no such key")
					}
					return nil
				}
			})
			bad := stored(t, transformer(), version, kmsKey, "plain")
			var group sync.WaitGroup
			for i := range 40 {
				group.Go(func() {
					data, want := good, ""
					if i%2 == 0 {
						data, want = bad, `refuses: NotFound, "no such key"`
					}
					got, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data)
					if (err == nil) != (want == "") || !strings.HasSuffix(fmt.Sprint(err), want) && want != "" || err == nil && string(got) != "plain" {
						t.Errorf("got %q, %v, want %q", got, err, want)
					}
				})
			}
			group.Wait()
		})
	}
}

// TestKMSInterrupted: a caller that gives up gets its own error, at once, and
// the plugin stays in use.
func TestKMSInterrupted(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c, v := kms(t, version, "timeout: 1h")
			server := map[string]value.Transformer{"v1": serverV1(v, false), "v2": serverV2(t, v, true)}[version]
			data := stored(t, server, version, kmsKey, "plain")
			ctx, cancel := context.WithCancel(t.Context())
			v.set(func(v *vault) {
				v.before = func(ctx context.Context, _ string, _ []byte) error {
					cancel()
					<-ctx.Done()
					return ctx.Err()
				}
			})
			if _, err := c.Decrypt(ctx, resource(t, "secrets"), kmsKey, data); !errors.Is(err, context.Canceled) || !errors.Is(err, codec.ErrEncrypted) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
			if _, err := c.Encrypt(ctx, resource(t, "secrets"), kmsKey, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("Encrypt: got %v, want %v", err, context.Canceled)
			}
			v.set(func(v *vault) { v.before = nil })
			if got, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data); err != nil || string(got) != "plain" {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
}

// TestKMSDeadline of the caller is not held against the plugin either.
func TestKMSDeadline(t *testing.T) {
	t.Parallel()
	c, v := kms(t, "v2", "timeout: 1h")
	data := stored(t, serverV2(t, v, true), "v2", kmsKey, "plain")
	v.set(func(v *vault) {
		v.before = func(ctx context.Context, _ string, _ []byte) error { <-ctx.Done(); return ctx.Err() }
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Decrypt(ctx, resource(t, "secrets"), kmsKey, data); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	v.set(func(v *vault) { v.before = nil })
	if _, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestKMSDamaged values are errors that quote nothing, without a panic.
func TestKMSDamaged(t *testing.T) {
	t.Parallel()
	const v2 = "resources[0].providers[0] of FILE: the value is damaged or of a newer release"
	c2, v := kms(t, "v2", "")
	c1, _ := kms(t, "v1", "")
	whole := map[string]string{}
	for name, server := range servers(t, v) {
		whole[name] = string(stored(t, server, name[:2], kmsKey, "plain"))
	}
	flipped := func(s string, at int) string { return s[:at] + string([]byte{s[at] ^ 1}) + s[at+1:] }
	// other changes a byte of the sealed key.
	other := func(name string) string {
		return flipped(whole[name], strings.Index(whole[name], "key-a/")+len("key-a/"))
	}
	v2Of := func(kind kmstypes.EncryptedDEKSourceType, sealed string) string {
		data, err := proto.Marshal(&kmstypes.EncryptedObject{EncryptedData: []byte("data"), KeyID: "k", EncryptedDEKSource: []byte(sealed), EncryptedDEKSourceType: kind})
		if err != nil {
			t.Fatal(err)
		}
		return "k8s:enc:kms:v2:p:" + string(data)
	}
	for name, tc := range map[string]struct {
		c            *Config
		stored, want string
	}{
		"v1, empty":       {c1, "k8s:enc:kms:v1:p:", "failed to read uint16 length prefixed data"},
		"v1, key cut off": {c1, "k8s:enc:kms:v1:p:\xff\xffx", "failed to read uint16 length prefixed data"},
		"v1, no data":     {c1, "k8s:enc:kms:v1:p:\x00\x22k/0123456789abcdef0123456789abcdef", "the value is cut off"},
		"v1, one block":   {c1, "k8s:enc:kms:v1:p:\x00\x22k/0123456789abcdef0123456789abcdef" + strings.Repeat("x", aes.BlockSize), "the value is cut off"},
		"v1, other key":   {c1, "k8s:enc:kms:v1:p:\x00\x04k/01xxxx", "invalid key size 2"},
		"v1, last byte":   {c1, flipped(whole["v1 GCM"], len(whole["v1 GCM"])-1), wrongKeyPlace},
		"v2, empty":       {c2, "k8s:enc:kms:v2:p:", v2},
		"v2, no protobuf": {c2, "k8s:enc:kms:v2:p:\xff\xff", v2},
		"v2, cut off":     {c2, whole["v2 key"][:len(whole["v2 key"])-1], v2},
		"v2, other seed":  {c2, other("v2 seed"), wrongKeyPlace},
		"v2, other key":   {c2, other("v2 key"), wrongKeyPlace},
		"v2, short seed":  {c2, v2Of(1, "k/0123"), "invalid seed length 4 used for key generation"},
		"v2, short key":   {c2, v2Of(0, "k/0123"), "invalid key size 4"},
		"v2, short data":  {c2, v2Of(1, "k/0123456789abcdef0123456789abcdef"), wrongKeyPlace},
		"v2, newer":       {c2, v2Of(2, "k/0123456789abcdef0123456789abcdef"), v2},
		"v2, not sealed":  {c2, v2Of(1, "none"), `refuses: Unknown, "not sealed here"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tc.c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, []byte(tc.stored))
			if err == nil || !strings.HasSuffix(err.Error(), strings.ReplaceAll(tc.want, "FILE", tc.c.Path())) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// TestKMSClosed fails what needs the plugin after Close, which may come twice.
func TestKMSClosed(t *testing.T) {
	t.Parallel()
	c, v := kms(t, "v2", "")
	data := stored(t, serverV2(t, v, true), "v2", kmsKey, "plain")
	if _, err := c.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	want := fmt.Sprintf("KMS plugin %q at %s is no longer connected", "p", c.plugins[0].endpoint)
	if _, err := c.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	if got, want := clip("a\x1b"), `"a\x1b"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := clip(strings.Repeat("x", 9999)), `"`+strings.Repeat("x", 300)+`"…`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestKMSManyKeys reads values of more plugin keys than the metrics of
// apiserver count without a word on stderr, where TestMain would find it.
func TestKMSManyKeys(t *testing.T) {
	t.Parallel()
	writer, v := kms(t, "v2", "")
	reader := kmsAt(t, "v2", writer.plugins[0].endpoint, "")
	now := time.Now()
	writer.entries[0][0].Transformer.(*kmsV2).now = func() time.Time { now = now.Add(statusEvery); return now }
	for i := range 150 {
		v.set(func(v *vault) { v.keyID = fmt.Sprint("key-", i) })
		data, err := writer.Encrypt(t.Context(), resource(t, "secrets"), kmsKey, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Decrypt(t.Context(), resource(t, "secrets"), kmsKey, data); err != nil {
			t.Fatal(err)
		}
	}
	if n := reader.entries[0][0].Transformer.(*kmsV2).keys.Len(); n != 150 {
		t.Errorf("%d keys kept, want 150", n)
	}
}
