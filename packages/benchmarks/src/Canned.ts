/**
 * A `fetch` that answers at once, with a whole answer or with a stream of 500 chunks, as the request asks.
 */
import { chunks } from "./Cost.ts"

const encode = (text: string) => new TextEncoder().encode(text)

const usage = { prompt_tokens: 8, completion_tokens: 9, total_tokens: 17 }

const completion = encode(
  JSON.stringify({
    id: "chatcmpl-1",
    object: "chat.completion",
    created: 1_763_000_000,
    model: "gpt-5",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "A switch that opens when calls keep failing.", refusal: null },
        logprobs: null,
        finish_reason: "stop"
      }
    ],
    usage
  })
)

const event = (delta: object, finishReason: string | null) =>
  encode(
    `data: ${JSON.stringify({
      id: "chatcmpl-1",
      object: "chat.completion.chunk",
      created: 1_763_000_000,
      model: "gpt-5",
      choices: [{ index: 0, delta, finish_reason: finishReason }]
    })}\n\n`
  )

// Every token is another one: an answer that repeats itself would be stopped by a guard.
const events = [
  event({ role: "assistant", content: "" }, null),
  ...Array.from({ length: chunks }, (_, index) => event({ content: `token${(index * 7919) % 1000} ` }, null)),
  event({}, "stop"),
  encode("data: [DONE]\n\n")
]

export const canned: typeof fetch = async (_, init) => {
  const streamed = typeof init?.body === "string" ? init.body.includes('"stream":true') : isStreamed(init?.body)
  if (!streamed) return new Response(completion, { headers: { "content-type": "application/json" } })
  let next = 0
  const body = new ReadableStream<Uint8Array>({
    pull: (controller) => {
      const bytes = events[next++]
      if (bytes === undefined) controller.close()
      else controller.enqueue(bytes)
    }
  })
  return new Response(body, { headers: { "content-type": "text/event-stream" } })
}

const isStreamed = (body: unknown): boolean => body instanceof Uint8Array && Buffer.from(body).includes('"stream":true')
