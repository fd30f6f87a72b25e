/**
 * Answers that are none: a chain in which one provider after the other says something that the output guard does not let pass.
 *
 *   npm run example docs/examples/output-guard.ts
 *
 * No account is needed: the providers follow a script.
 */
import { Attempt, LlmResilience, type LlmRequest, OutputGuard, type Provider } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Console, Effect, Schema, Stream } from "effect"

const Weather = Schema.Struct({ city: Schema.String, celsius: Schema.Finite })

const resilient = (
  script: { readonly [provider: string]: ReadonlyArray<ScriptedProvider.Step> },
  outputGuard?: OutputGuard.Options
) => {
  const [first, ...others] = Object.entries(script).map(([id, steps]) => ({
    provider: ScriptedProvider.layer({ id, script: steps })
  }))
  if (first === undefined) throw new RangeError("resilient: script must have at least one provider, got none")
  return LlmResilience.layer({
    steps: [first, ...others],
    policy: LlmResilience.standard({ retry: "off", outputGuard })
  })
}

const tell = (error: Provider.Failure) =>
  Console.log(error._tag === "APIError" ? `  ended with ${error.reason}: ${error.description}` : `  ${error.message}`)

const ask = (input: LlmRequest.Input) =>
  Effect.gen(function* () {
    const { served, text } = yield* LlmResilience.generate(input)
    for (const attempt of served.attempts) yield* Console.log(`  (${Attempt.format(attempt)})`)
    yield* Console.log(`  ${served.provider}: ${text}`)
    if (served.notice !== undefined) yield* Console.log(`  the user is told: ${served.notice.message}`)
  }).pipe(Effect.catch(tell))

const program = Effect.gen(function* () {
  yield* Console.log("An empty answer and a loop fall over to the next provider:")
  yield* ask({ prompt: "What is the capital of France?" }).pipe(
    Effect.provide(
      resilient({
        silent: [ScriptedProvider.answer("")],
        stuck: [ScriptedProvider.answer("The capital is, the capital is, ".repeat(500))],
        sound: [ScriptedProvider.answer("Paris.")]
      })
    )
  )

  yield* Console.log("\nJSON that does not satisfy its schema is repaired by the same provider:")
  yield* ask({
    prompt: "How is the weather in Rome?",
    responseFormat: { type: "json", objectName: "weather", schema: Weather }
  }).pipe(
    Effect.provide(
      resilient({
        careless: [
          ScriptedProvider.answer(`{"city":"Rome","celsius":"warm"}`),
          ScriptedProvider.answer(`{"city":"Rome","celsius":24}`)
        ]
      })
    )
  )

  yield* Console.log("\nAn answer that was cut at its length passes, and the user is told:")
  yield* ask({ prompt: "Tell me a story" }).pipe(
    Effect.provide(resilient({ brief: [ScriptedProvider.answer("Once upon a time", { finish: "length" })] }))
  )

  yield* Console.log("\nA refusal, if it counts as one, goes up and is not offered to the next provider:")
  yield* ask({ prompt: "Please do something forbidden" }).pipe(
    Effect.provide(
      resilient(
        {
          firm: [ScriptedProvider.answer("I'm sorry, but I can't help with that.")],
          other: [ScriptedProvider.answer("Of course!")]
        },
        { refusal: "fail" }
      )
    )
  )

  yield* Console.log("\nA stream that begins to loop is stopped while it loops:")
  let characters = 0
  yield* LlmResilience.stream({ prompt: "Count to a million" }).pipe(
    Stream.runForEach((part) =>
      Effect.sync(() => {
        if (part.type === "text-delta") characters += part.delta.length
      })
    ),
    Effect.catch(tell),
    Effect.provide(
      resilient({
        endless: [ScriptedProvider.tokens(`One, two, ${"and so on, ".repeat(10_000)}`, { every: "0 millis" })]
      })
    )
  )
  yield* Console.log(`  after ${characters} of 110010 characters`)

  yield* Console.log("\nA judge has the last word:")
  yield* ask({ prompt: "Say something nice" }).pipe(
    Effect.provide(
      resilient(
        { rude: [ScriptedProvider.answer("No.")], kind: [ScriptedProvider.answer("You write lovely programs.")] },
        {
          judge: ({ text }) =>
            Effect.succeed(text.length < 10 ? OutputGuard.rejected("SchemaMismatch", "Too curt") : OutputGuard.accepted)
        }
      )
    )
  )
})

await Effect.runPromise(program)
