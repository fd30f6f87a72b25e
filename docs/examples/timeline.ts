/**
 * The main job, to be watched: an application keeps answering questions while its primary provider goes away and comes back.
 *
 *   npm start                     stages an outage between two providers on loopback
 *   npm start -- "your prompt"    answers one prompt
 *
 * With ANTHROPIC_API_KEY or OPENAI_API_KEY set, the same chain asks the real providers; their outages are then left to them.
 */
import { fileURLToPath } from "node:url"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import {
  Attempt,
  LlmResilience,
  type LlmUnavailable,
  ResilienceConfig,
  type ResilienceEvent
} from "@llm-resilience/core"
import { Providers } from "@llm-resilience/providers"
import { Upstream } from "@llm-resilience/testing"
import {
  Array,
  Clock,
  Config,
  ConfigProvider,
  Console,
  Duration,
  Effect,
  FileSystem,
  Layer,
  Option,
  Stream
} from "effect"
import { FetchHttpClient } from "effect/http"

const questions = 30
const pace = Duration.millis(400)
const outage = { from: 8, to: 18 }

const seconds = (millis: number): string => `${(millis / 1000).toFixed(1).padStart(5)} s`

const loadChain = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const text = yield* fs.readFileString(fileURLToPath(new URL("./chain.yaml", import.meta.url)))
  return yield* ResilienceConfig.parse(text)
})

/** The chain as it is in the file, with the addresses of the given servers. */
const pointedAt = (
  config: ResilienceConfig.ResilienceConfig,
  servers: { readonly [provider: string]: Upstream.Upstream }
): ResilienceConfig.ResilienceConfig => ({
  ...config,
  fallbackChain: Array.map(config.fallbackChain, (step) => {
    const server = servers[step.provider]
    return server === undefined ? step : { ...step, baseUrl: server.baseUrl }
  })
})

const resilience = (config: ResilienceConfig.ResilienceConfig) =>
  LlmResilience.layerConfig({ config, providers: Providers.registry }).pipe(Layer.provide(FetchHttpClient.layer))

const answerOne = (prompt: string) =>
  Effect.gen(function* () {
    const response = yield* LlmResilience.generate({ prompt })
    yield* Console.log(response.text)
    for (const attempt of response.served.attempts) yield* Console.log(`(${Attempt.format(attempt)})`)
    yield* Console.log(`\nanswered by ${response.served.provider} (${response.served.model})`)
    if (response.served.notice !== undefined) yield* Console.log(`the user is told: ${response.served.notice.message}`)
  }).pipe(
    Effect.catchTag("LlmUnavailable", (error: LlmUnavailable.LlmUnavailable) =>
      Console.log(`${error.notice.message}\n${error.attempts.map(Attempt.format).join("\n")}`)
    )
  )

interface Answered {
  readonly provider: string
  readonly millis: number
}

interface Opening {
  readonly from: number
  readonly to: number
}

/** Prints what the breakers do while the questions are being answered, and keeps when the primary's circuit was open. */
const narrate = (start: number, openings: Array<Opening>) =>
  Effect.flatMap(LlmResilience.LlmResilience, ({ events }) =>
    Stream.runForEach(events, (event: ResilienceEvent.ResilienceEvent) =>
      Effect.gen(function* () {
        if (event._tag !== "CircuitChanged") return
        const now = yield* Clock.currentTimeMillis
        if (event.to === "Open") openings.push({ from: now, to: Infinity })
        const open = openings.at(-1)
        if (event.from === "Open" && open !== undefined) openings[openings.length - 1] = { ...open, to: now }
        yield* Console.log(`${seconds(now - start)}        circuit of ${event.provider}: ${event.from} -> ${event.to}`)
      })
    )
  )

const stageOutage = (primary: Upstream.Upstream) =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeMillis
    const told = new Set<string>()
    const answers: Array<Answered> = []
    const openings: Array<Opening> = []
    yield* Effect.forkChild(narrate(start, openings), { startImmediately: true })
    for (let number = 1; number <= questions; number++) {
      const asked = yield* Clock.currentTimeMillis
      if (number === outage.from) {
        yield* primary.down
        yield* Console.log(`${seconds(asked - start)}  ----  anthropic goes down  ----`)
      }
      if (number === outage.to) {
        yield* primary.up
        yield* Console.log(`${seconds(asked - start)}  ----  anthropic is back  ----`)
      }
      const label = `${seconds(asked - start)}  ${`#${number}`.padStart(4)} `
      const result = yield* Effect.result(LlmResilience.generate({ prompt: `Question ${number}` }))
      const millis = (yield* Clock.currentTimeMillis) - asked
      if (result._tag === "Failure") {
        yield* Console.log(`${label} no answer after ${millis} ms: ${result.failure.message}`)
        continue
      }
      const { served } = result.success
      answers.push({ provider: served.provider, millis })
      const why = served.attempts.map((attempt) => `   [${Attempt.format(attempt)}]`).join("")
      yield* Console.log(`${label} ${served.provider.padEnd(10)} ${String(millis).padStart(5)} ms${why}`)
      if (served.notice !== undefined && !told.has(served.notice.message)) {
        told.add(served.notice.message)
        yield* Console.log(`                the user is told: ${served.notice.message}`)
      }
      yield* Effect.sleep(pace)
    }
    yield* summarise(answers, openings, yield* primary.requests)
  })

const summarise = (
  answers: ReadonlyArray<Answered>,
  openings: ReadonlyArray<Opening>,
  seen: ReadonlyArray<Upstream.Recorded>
) =>
  Effect.gen(function* () {
    const whileOpen = seen.filter(({ receivedAt }) =>
      openings.some(({ from, to }) => receivedAt > from && receivedAt < to)
    )
    yield* Console.log(`\n${questions} questions, ${answers.length} answers`)
    for (const { circuit, provider } of yield* LlmResilience.status) {
      const count = String(answers.filter((answer) => answer.provider === provider).length).padStart(2)
      yield* Console.log(`  ${provider.padEnd(10)} answered ${count}, its circuit is ${circuit?._tag ?? "not guarded"}`)
    }
    yield* Console.log(`  slowest answer: ${Math.max(0, ...answers.map(({ millis }) => millis))} ms`)
    yield* Console.log(
      `  requests that anthropic saw: ${seen.length}, of these while its circuit was open: ${whileOpen.length}`
    )
  })

const rehearse = (config: ResilienceConfig.ResilienceConfig, prompt: string | undefined) =>
  Effect.gen(function* () {
    const reply = (name: string) => ({ answer: `Hello from ${name}.`, tokenEvery: "10 millis" }) as const
    const anthropic = yield* Upstream.make(reply("the primary"))
    const openai = yield* Upstream.make(reply("the backup"))
    const keys = ConfigProvider.layer(
      ConfigProvider.fromUnknown({ ANTHROPIC_API_KEY: "rehearsal", OPENAI_API_KEY: "rehearsal" })
    )
    const chain = resilience(pointedAt(config, { anthropic, openai })).pipe(Layer.provide(keys))
    yield* Console.log("Two providers on loopback, the chain of docs/examples/chain.yaml. No account is needed.\n")
    yield* Effect.provide(prompt === undefined ? stageOutage(anthropic) : answerOne(prompt), chain)
  })

const program = Effect.gen(function* () {
  const prompt = process.argv.slice(2).join(" ").trim()
  const config = yield* loadChain
  const keyed = yield* Effect.filter(config.fallbackChain, (step) =>
    Effect.map(Config.option(Config.NonEmptyString(`${step.provider.toUpperCase()}_API_KEY`)), Option.isSome)
  )
  if (!Array.isArrayNonEmpty(keyed)) return yield* rehearse(config, prompt === "" ? undefined : prompt)
  yield* Console.log(`Asking the real providers: ${keyed.map((step) => step.provider).join(", ")}\n`)
  return yield* Effect.provide(
    answerOne(prompt === "" ? "In one sentence: what is a circuit breaker in software?" : prompt),
    resilience({ ...config, fallbackChain: keyed })
  )
})

NodeRuntime.runMain(Effect.scoped(program).pipe(Effect.provide(NodeServices.layer)))
