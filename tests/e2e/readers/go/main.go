// LIBRARY BOOTSTRAP ISOLATION TOPIC:OFFSET…: prints the records of partition 0 of each topic, until it is killed.
package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	starts := map[string]int64{}
	for _, each := range os.Args[4:] {
		topic, text, _ := strings.Cut(each, ":")
		offset, err := strconv.ParseInt(text, 10, 64)
		check(err)
		starts[topic] = offset
	}
	read := map[string]func(string, string, map[string]int64){"franz-go": franz, "sarama": readSarama}[os.Args[1]]
	read(os.Args[2], os.Args[3], starts)
}

func show(topic string, offset int64, key []byte, value []byte) {
	fmt.Printf("%s %d %s %s\n", topic, offset, text(key), text(value))
}

func text(bytes []byte) string {
	if bytes == nil {
		return "-"
	}
	return "x" + hex.EncodeToString(bytes)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
