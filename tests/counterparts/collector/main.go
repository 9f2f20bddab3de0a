// The OpenTelemetry Collector's receiver of OTLP over HTTP for tests: collector PORT. It says "ready" when it listens, and what
// comes as OTLP/JSON, a line each. It ends with its standard input.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

var printing sync.Mutex

func main() {
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	http := map[string]any{"endpoint": "127.0.0.1:" + os.Args[1]}
	check(confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": http}}).Unmarshal(config))
	settings := receivertest.NewNopSettings(factory.Type())
	metrics, err := consumer.NewMetrics(func(_ context.Context, came pmetric.Metrics) error {
		return say((&pmetric.JSONMarshaler{}).MarshalMetrics(came))
	})
	check(err)
	logs, err := consumer.NewLogs(func(_ context.Context, came plog.Logs) error {
		return say((&plog.JSONMarshaler{}).MarshalLogs(came))
	})
	check(err)
	traces, err := consumer.NewTraces(func(_ context.Context, came ptrace.Traces) error {
		return say((&ptrace.JSONMarshaler{}).MarshalTraces(came))
	})
	check(err)
	receiver, err := factory.CreateMetrics(context.Background(), settings, config, metrics)
	check(err)
	_, err = factory.CreateLogs(context.Background(), settings, config, logs) // the same receiver: it is shared by its settings
	check(err)
	_, err = factory.CreateTraces(context.Background(), settings, config, traces)
	check(err)
	check(receiver.Start(context.Background(), componenttest.NewNopHost()))
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func say(text []byte, err error) error {
	if err == nil {
		printing.Lock()
		defer printing.Unlock()
		fmt.Printf("%s\n", text)
	}
	return err
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
