package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

func franz(bootstrap string, isolation string, starts map[string]int64) {
	start := map[string]map[int32]kgo.Offset{}
	for topic, offset := range starts {
		start[topic] = map[int32]kgo.Offset{0: kgo.NewOffset().At(offset)}
	}
	level := kgo.ReadUncommitted()
	if isolation == "read_committed" {
		level = kgo.ReadCommitted()
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumePartitions(start),
		kgo.FetchIsolationLevel(level),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)
	check(err)
	for {
		fetches := client.PollFetches(context.Background())
		for _, failed := range fetches.Errors() {
			check(failed.Err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			show(record.Topic, record.Offset, record.Key, record.Value)
		})
	}
}
