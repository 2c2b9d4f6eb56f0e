package main

import "github.com/IBM/sarama"

func readSarama(bootstrap string, isolation string, starts map[string]int64) {
	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Consumer.Return.Errors = true
	if isolation == "read_committed" {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	consumer, err := sarama.NewConsumer([]string{bootstrap}, config)
	check(err)
	for topic, offset := range starts {
		partition, err := consumer.ConsumePartition(topic, 0, offset)
		check(err)
		go func() {
			for failed := range partition.Errors() {
				check(failed)
			}
		}()
		go func() {
			for message := range partition.Messages() {
				show(message.Topic, message.Offset, message.Key, message.Value)
			}
		}()
	}
	select {}
}
