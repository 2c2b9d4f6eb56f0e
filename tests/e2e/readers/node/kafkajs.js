// BOOTSTRAP ISOLATION TOPIC:OFFSET…: prints the records of partition 0 of each topic, until it is killed.
const { Kafka, logLevel } = require('kafkajs')

const [bootstrap, isolation, ...starts] = process.argv.slice(2)
const text = bytes => (bytes === null || bytes === undefined ? '-' : 'x' + bytes.toString('hex'))

async function main() {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR })
  const consumer = kafka.consumer({
    groupId: `kafkajs-${process.pid}-${Date.now()}`,
    readUncommitted: isolation === 'read_uncommitted',
  })
  await consumer.connect()
  const topics = starts.map(start => start.split(':'))
  await consumer.subscribe({ topics: topics.map(([topic]) => topic), fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ topic, message }) => {
      console.log(topic, message.offset, text(message.key), text(message.value))
    },
  })
  for (const [topic, offset] of topics) {
    consumer.seek({ topic, partition: 0, offset })
  }
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
