/**
 * A program of effect/ai that does not notice an outage: a chat with tools, an object and a stream, while the primary goes away and comes
 * back. Both providers are servers on loopback; no account is needed.
 *
 *   npm run example docs/examples/effect-ai.ts
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { LlmResilience } from "@llm-resilience/core"
import { Anthropic, OpenAiCompatible } from "@llm-resilience/providers"
import { type Answer, Fault, Upstream } from "@llm-resilience/testing"
import { Console, Effect, Layer, Schema, Stream } from "effect"
import { Chat, LanguageModel, Prompt, type Response, Tool, Toolkit } from "effect/ai"
import { FetchHttpClient } from "effect/http"

// The program speaks effect/ai. Nothing in it knows that there is more than one model, but for `whoAnswered`.

const Weather = Toolkit.make(
  Tool.make("lookUp", {
    description: "Looks up how warm it is in a city",
    parameters: Schema.Struct({ city: Schema.String }),
    success: Schema.Struct({ degrees: Schema.Number })
  })
)

const WeatherLive = Weather.toLayer({
  lookUp: ({ city }) => Effect.as(Console.log(`  tool      lookUp(${city})`), { degrees: 21 })
})

const Person = Schema.Struct({ name: Schema.String, born: Schema.Int })

const whoAnswered = (parts: Iterable<Response.AnyPart>) => {
  const served = LlmResilience.servedOf(parts)
  const notice = served?.notice === undefined ? "" : `   [the user is told: ${served.notice.message}]`
  return `${(served?.provider ?? "?").padEnd(9)}${notice}`
}

const askWithTools = (primary: Upstream.Upstream) =>
  Effect.gen(function* () {
    yield* Console.log("A chat with tools; the primary goes down between the call of the tool and its result")
    const chat = yield* Chat.fromPrompt([{ role: "system", content: "Be brief." }])
    let response = yield* chat.generateText({ prompt: "How warm is it in Rome?", toolkit: Weather })
    yield* Console.log(`  ${whoAnswered(response.content)}`)
    yield* primary.down
    while (response.toolResults.length > 0) {
      response = yield* chat.generateText({ prompt: Prompt.empty, toolkit: Weather })
      yield* Console.log(`  ${whoAnswered(response.content)}\n            ${response.text}`)
    }
    yield* primary.up
  })

const askForAnObject = (primary: Upstream.Upstream) =>
  Effect.gen(function* () {
    yield* Console.log("\nAn object; the primary answers with something else")
    yield* primary.setAnswer("I would rather talk about the weather.")
    const response = yield* LanguageModel.generateObject({ prompt: "Who wrote the first program?", schema: Person })
    yield* Console.log(`  ${whoAnswered(response.content)}\n            ${JSON.stringify(response.value)}`)
  })

const askForAStream = (primary: Upstream.Upstream) =>
  Effect.gen(function* () {
    yield* Console.log("\nA stream; the connection to the primary breaks in the middle of it")
    yield* primary.setAnswer("Circuit breakers stop calls that would fail anyway.")
    yield* primary.setFault(Fault.cut(5))
    const parts = yield* LanguageModel.streamText({ prompt: "What is a circuit breaker?" }).pipe(Stream.runCollect)
    const text = parts.reduce((text, part) => (part.type === "text-delta" ? text + part.delta : text), "")
    const served = LlmResilience.servedOf(parts)
    const writers = served?.contributors?.map(({ provider }) => provider).join(", then ") ?? served?.provider
    yield* Console.log(`  ${writers}\n            ${text}`)
  })

// The one layer that makes it resilient.

const resilient = (primary: Upstream.Upstream, backup: Upstream.Upstream) =>
  LlmResilience.languageModel.pipe(
    Layer.provide(
      LlmResilience.layer({
        deadline: "30 seconds",
        policy: LlmResilience.standard({ retry: "off" }),
        steps: [
          { provider: Anthropic.layer({ model: "claude-3-opus", baseUrl: primary.baseUrl }) },
          { provider: OpenAiCompatible.layer({ model: "gpt-4o", baseUrl: backup.baseUrl }) }
        ]
      })
    ),
    Layer.provide(FetchHttpClient.layer)
  )

const answers: Answer.Answer = ({ messages, text }) => {
  if (text.includes("first program")) return `{"name":"Ada Lovelace","born":1815}`
  if (text.includes("breaker")) return "Circuit breakers stop calls that would fail anyway."
  return messages.at(-1)?.role === "user"
    ? { toolCalls: [{ name: "lookUp", params: { city: "Rome" } }] }
    : "It is 21 degrees in Rome."
}

const program = Effect.gen(function* () {
  const primary = yield* Upstream.make({ answer: answers })
  const backup = yield* Upstream.make({ answer: answers })
  yield* askWithTools(primary).pipe(
    Effect.andThen(askForAnObject(primary)),
    Effect.andThen(askForAStream(primary)),
    Effect.provide([resilient(primary, backup), WeatherLive])
  )
})

NodeRuntime.runMain(Effect.scoped(program))
