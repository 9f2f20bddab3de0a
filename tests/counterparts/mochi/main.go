// A broker by mochi-mqtt for tests: mochi PORT. It says "ready" when it listens, and what is published, a line each.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

func main() {
	server := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	check(server.AddHook(new(auth.AllowHook), nil))
	check(server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:" + os.Args[1]})))
	check(server.Serve())
	check(server.Subscribe("#", 1, func(_ *mqtt.Client, _ packets.Subscription, packet packets.Packet) {
		fmt.Printf("%s %s\n", packet.TopicName, packet.Payload)
	}))
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
