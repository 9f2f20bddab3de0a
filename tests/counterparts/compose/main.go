// The reference implementation of the Compose specification, which docker compose is made of: reads compose files as it does,
// prints what they come to as JSON, and ends with 1 and one line when they are wrong.
//
//	compose DIRECTORY FILE... <environment    (NAME=value lines; nothing else is known of the environment, nor is .env read)
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if err := check(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(directory string, files []string) error {
	var environment []string
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		environment = append(environment, lines.Text())
	}
	options, err := cli.NewProjectOptions(files,
		cli.WithWorkingDirectory(directory), cli.WithEnv(environment), cli.WithDefaultProfiles("*"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(project)
}
