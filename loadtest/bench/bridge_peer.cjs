// The peer of the bridge benchmark: a broker's messages into Kinesis by mqtt.js and Amazon's SDK, as both are
// documented. It acknowledges to the broker by itself, before Kinesis has anything: mqtt.js does so.
// Arguments: broker's host, port, Kinesis' endpoint. Modules are found by NODE_PATH.

const mqtt = require('mqtt')
const { KinesisClient, PutRecordsCommand } = require('@aws-sdk/client-kinesis')
const { NodeHttpHandler } = require('@smithy/node-http-handler')

const RECORDS_PER_CALL = 500
const LINGER_MS = 5
const [host, port, endpoint] = process.argv.slice(2)

// HTTP/1.1, as the server of this benchmark speaks; the SDK's own choice for Kinesis is HTTP/2.
const kinesis = new KinesisClient({ endpoint, requestHandler: new NodeHttpHandler() })
const queue = []
let isPutting = false

async function putAll() {
  if (isPutting) return
  isPutting = true
  while (queue.length) {
    if (queue.length < RECORDS_PER_CALL) await new Promise((resolve) => setTimeout(resolve, LINGER_MS))
    let batch = queue.splice(0, RECORDS_PER_CALL)
    while (batch.length) {
      const answer = await kinesis.send(new PutRecordsCommand({ StreamName: 'bench', Records: batch }))
      batch = answer.FailedRecordCount ? batch.filter((_, n) => answer.Records[n].ErrorCode) : []
    }
  }
  isPutting = false
}

const client = mqtt.connect({ host, port: Number(port), clientId: 'bridge', protocolVersion: 5 })
client.on('message', (topic, payload) => {
  queue.push({ Data: payload, PartitionKey: topic.split('/')[1] })
  putAll()
})
client.on('connect', () => client.subscribe('meters/#', { qos: 1 }, () => console.log('"ready"')))
