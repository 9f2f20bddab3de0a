// A fake of Google Cloud Pub/Sub that speaks the official gRPC service: pstest, the client library's own, in a process of its
// own. What it lacks is added here: it keeps what was published in a file, so that it can be killed, and refuses what the
// service refuses for its limits.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// One line of the file: a topic that was made, or a message that was published.
type record struct {
	Topic       string            `json:"topic"`
	Made        bool              `json:"made,omitempty"`
	Data        []byte            `json:"data,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	OrderingKey string            `json:"ordering_key,omitempty"`
}

// A fault that a test asked for: the code that calls of a method end with, so many times.
type fault struct {
	Method string `json:"method"`
	Code   uint32 `json:"code"`
	Text   string `json:"text"`
	Times  int    `json:"times"`
	Part   string `json:"part"` // only for messages that hold this
}

type keeper struct {
	mu     sync.Mutex
	file   *os.File
	faults []fault
	token  string
}

func refuse(text string, given ...any) error {
	return status.Errorf(codes.InvalidArgument, text, given...)
}

// The limits of the service, as its documentation has them.
func limits(req *pubsubpb.PublishRequest) error {
	if len(req.Messages) == 0 || len(req.Messages) > 1000 {
		return refuse("a request has 1 to 1000 messages, not %d", len(req.Messages))
	}
	if size := proto.Size(req); size > 10_000_000 {
		return refuse("the request has %d bytes, 10000000 at most", size)
	}
	for _, m := range req.Messages {
		if len(m.Data) == 0 && len(m.Attributes) == 0 {
			return refuse("a message has data or attributes")
		}
		if len(m.Attributes) > 100 {
			return refuse("a message has %d attributes, 100 at most", len(m.Attributes))
		}
		for key, value := range m.Attributes {
			if len(key) == 0 || len(key) > 256 || len(value) > 1024 || (len(key) >= 4 && key[:4] == "goog") {
				return refuse("an attribute has a key of 1 to 256 bytes that does not begin with goog, and a value of 1024")
			}
		}
		if len(m.OrderingKey) > 1024 {
			return refuse("an ordering key has %d bytes, 1024 at most", len(m.OrderingKey))
		}
	}
	return nil
}

func (k *keeper) faulty(method string, req any) error {
	for i := range k.faults {
		f := &k.faults[i]
		if f.Times == 0 || f.Method != method {
			continue
		}
		if f.Part != "" {
			held := false
			if publish, ok := req.(*pubsubpb.PublishRequest); ok {
				for _, m := range publish.Messages {
					held = held || bytes.Contains(m.Data, []byte(f.Part))
				}
			}
			if !held {
				continue
			}
		}
		f.Times--
		return status.Error(codes.Code(f.Code), f.Text)
	}
	return nil
}

func (k *keeper) keep(records []record) error {
	var lines []byte
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	_, err := k.file.Write(lines)
	return err
}

// Called around each call: the file has what was published before the answer goes out, in the order in which it came.
func (k *keeper) around(ctx context.Context, req any, info *grpc.UnaryServerInfo, call grpc.UnaryHandler) (any, error) {
	if strings.HasPrefix(info.FullMethod, "/google.pubsub.v1.Subscriber/") {
		return call(ctx, req) // a pull waits
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token != "" {
		found, _ := metadata.FromIncomingContext(ctx)
		if given := found.Get("authorization"); len(given) != 1 || given[0] != "Bearer "+k.token {
			return nil, status.Error(codes.Unauthenticated, "Request had invalid authentication credentials.")
		}
	}
	method := info.FullMethod[len("/google.pubsub.v1."):]
	if err := k.faulty(method, req); err != nil {
		return nil, err
	}
	publish, isPublish := req.(*pubsubpb.PublishRequest)
	if isPublish {
		if err := limits(publish); err != nil {
			return nil, err
		}
	}
	answer, err := call(ctx, req)
	if err != nil {
		return nil, err
	}
	var kept []record
	if isPublish {
		for _, m := range publish.Messages {
			kept = append(kept, record{Topic: publish.Topic, Data: m.Data, Attributes: m.Attributes, OrderingKey: m.OrderingKey})
		}
	}
	if topic, ok := req.(*pubsubpb.Topic); ok {
		kept = append(kept, record{Topic: topic.Name, Made: true})
	}
	if err := k.keep(kept); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return answer, nil
}

// The topics are made anew; the messages are in the file, and their subscribers have had them.
func (k *keeper) restore(path string, server *pstest.Server) error {
	found, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer found.Close()
	lines := bufio.NewScanner(found)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.Made {
			if _, err := server.GServer.CreateTopic(context.Background(), &pubsubpb.Topic{Name: r.Topic}); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address of the service")
	admin := flag.String("admin", "127.0.0.1:0", "address where faults are asked for")
	path := flag.String("file", "", "file that keeps what is published")
	token := flag.String("token", "", "the access token that calls must have")
	flag.Parse()
	server := pstest.NewServer()
	k := &keeper{token: *token}
	if err := k.restore(*path, server); err != nil {
		log.Fatal(err)
	}
	var err error
	if k.file, err = os.OpenFile(*path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/faults", func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.faults = nil
		if err := json.NewDecoder(r.Body).Decode(&k.faults); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	administration, err := net.Listen("tcp", *admin)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(http.Serve(administration, nil)) }()
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	front := grpc.NewServer(grpc.UnaryInterceptor(k.around), grpc.MaxRecvMsgSize(32<<20))
	pubsubpb.RegisterPublisherServer(front, &server.GServer)
	pubsubpb.RegisterSubscriberServer(front, &server.GServer)
	fmt.Println("ready", listener.Addr())
	log.Fatal(front.Serve(listener))
}
