/**
 * What the emergency cache and the search for similar questions cost: keys, lookups, storing, and the index of vectors.
 */
import * as CacheKey from "@llm-resilience/core/CacheKey"
import * as CanonicalKey from "@llm-resilience/core/CanonicalKey"
import * as DifferenceGuard from "@llm-resilience/core/DifferenceGuard"
import * as Embedder from "@llm-resilience/core/Embedder"
import * as EmergencyCache from "@llm-resilience/core/EmergencyCache"
import * as CacheStore from "@llm-resilience/core/CacheStore"
import * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import * as QuestionStore from "@llm-resilience/core/QuestionStore"
import * as SimilarAnswers from "@llm-resilience/core/SimilarAnswers"
import * as VectorIndex from "@llm-resilience/core/VectorIndex"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type { CpuFigure, Figure } from "./Measure.ts"

export const figures = Effect.gen(function* () {
  const secret = Redacted.make("a secret that nobody knows")
  const keys = CacheKey.make({ secret })
  const asking = { modelGroup: "chat" }

  const store = Context.get(yield* Layer.build(CacheStore.layerMemory()), CacheStore.CacheStore)
  const cacheOf = EmergencyCache.make({ secret }).pipe(Effect.provideService(CacheStore.CacheStore, store))
  const reading = yield* cacheOf
  for (const request of requests) {
    yield* reading.remember(request, answer, asking)
    yield* Effect.yieldNow
  }
  for (const request of requests) {
    const found = yield* reading.find(request, asking)
    if (Option.isNone(found)) return yield* Effect.die(new Error("cache.exact.cpu: an answer was not stored"))
  }
  const writing = yield* cacheOf

  const keyed = turns(requests)
  const written = turns(prompts)
  const looked = turns(requests)
  const stored = turns(requests)
  const compared = turns(pairs)

  const growing = VectorIndex.make({ dimensions, maxEntries: 10_000_000 })
  const noise = noiseOf(1)
  const vectors = Array.from({ length: 64 }, () => Float32Array.from({ length: dimensions }, noise))
  let entries = 0

  return [
    {
      name: "cache.key.cpu",
      about: "exact key of a prompt of 2 kB",
      goal: 50,
      of: () => Effect.sync(() => keys.of(keyed(), "chat"))
    },
    {
      name: "cache.canonical.cpu",
      about: "canonical key of a prompt of 2 kB",
      goal: 50,
      of: () => Effect.sync(() => CanonicalKey.of(written()))
    },
    {
      name: "cache.exact.cpu",
      about: "exact lookup in memory, key and decoding included",
      goal: 60,
      of: () => Effect.suspend(() => reading.find(looked(), asking))
    },
    {
      name: "cache.remember.cpu",
      about: "storing an answer in memory, in the background",
      of: () =>
        Effect.andThen(
          Effect.suspend(() => writing.remember(stored(), answer, asking)),
          Effect.yieldNow
        ),
      minus: () => Effect.yieldNow
    },
    {
      name: "guard.compare.cpu",
      about: "difference guard, two questions of one sentence",
      of: () =>
        Effect.sync(() => {
          const [left, right] = compared()
          return DifferenceGuard.compare(left, right)
        })
    },
    {
      name: "index.entry.bytes",
      about: "memory of one entry of the index, id included",
      retainedBy: () =>
        Effect.sync(() => growing.add("acme", `question-${entries}`, vectors[entries++ % vectors.length] ?? [])),
      // Blocks of the index have 1024 rows, so that whole ones are added in a quick run, too.
      calls: 4096
    }
  ] satisfies ReadonlyArray<Figure>
})

/**
 * Finding and storing among many entries, of one scope. The stores are full, so each entry that is stored evicts another. They are filled
 * when they are measured.
 */
export const sizeFigures = (options: { readonly quick: boolean }): Effect.Effect<ReadonlyArray<Figure>> =>
  Effect.sync(() => [...[1000, 10_000, ...(options.quick ? [] : [100_000])].flatMap(amongMany), ...memoryFigures()])

const amongMany = (entries: number): ReadonlyArray<Figure> => {
  const size = `${entries / 1000}k`
  const among = `among ${entries.toLocaleString("en")} entries`
  let cache: Full | undefined
  const prepare = Effect.orDie(
    Effect.scoped(
      Effect.gen(function* () {
        cache ??= yield* full(entries)
      })
    )
  )
  const use = (of: (cache: Full) => Effect.Effect<unknown, unknown>) => () =>
    Effect.suspend(() => (cache === undefined ? Effect.die("unreachable: it is prepared") : of(cache)))
  return [
    { name: `cache.find.${size}.cpu`, about: `exact lookup ${among}`, prepare, of: use(({ find }) => find) },
    {
      name: `cache.insert.${size}.cpu`,
      about: `store an encoded answer ${among}`,
      prepare,
      of: use(({ insert }) => insert)
    },
    {
      name: `similar.find.${size}.cpu`,
      about: `find a similar question ${among}, embedding excepted`,
      prepare,
      of: use(({ findSimilar }) => findSimilar)
    },
    {
      name: `similar.insert.${size}.cpu`,
      about: `store a question and its vector ${among}`,
      prepare,
      of: use(({ insertSimilar }) => insertSimilar)
    },
    {
      name: `cache.pause.${size}`,
      about: `longest turn while ${entries.toLocaleString("en")} entries are stored and as many evicted`,
      goal: 5000,
      turns: entries * 2,
      longestOf: () => {
        const empty = Effect.runSync(stores(entries))
        let number = 0
        return () => Effect.runSync(storeOne(empty, number++))
      }
    }
  ]
}

interface Full {
  readonly find: Effect.Effect<unknown>
  readonly insert: Effect.Effect<unknown, unknown>
  readonly findSimilar: Effect.Effect<unknown>
  readonly insertSimilar: Effect.Effect<unknown, unknown>
}

const bounds = (maxEntries: number) => ({ maxEntries, maxBytes: Number.MAX_SAFE_INTEGER })

const stores = (maxEntries: number) =>
  Effect.all({
    answers: Effect.map(Effect.scoped(Layer.build(CacheStore.layerMemory(bounds(maxEntries)))), (context) =>
      Context.get(context, CacheStore.CacheStore)
    ),
    questions: QuestionStore.makeMemory({ maxEntries })
  })

type Stores = Effect.Success<ReturnType<typeof stores>>

const storeAnswer = ({ answers }: Stores, number: number) =>
  answers.set({ scope: "acme", subject: "ann", hash: hashOf(number) }, entryOf(number), Number.MAX_SAFE_INTEGER)

const storeQuestion = ({ questions }: Stores, number: number, scope = "acme") => {
  const question = questionOf(number)
  return Effect.flatMap(
    questions.put({ scope, question, canonical: CanonicalKey.of(question), key: hashOf(number) }, "noise"),
    ({ stored }) => questions.embed(stored, "noise", vectorOf(number))
  )
}

const storeOne = (empty: Stores, number: number) =>
  Effect.andThen(storeAnswer(empty, number), storeQuestion(empty, number))

const full = Effect.fnUntraced(function* (entries: number) {
  const filled = yield* stores(entries)
  const secret = Redacted.make("a secret that nobody knows")
  const cache = yield* EmergencyCache.make({ secret }).pipe(
    Effect.provideService(CacheStore.CacheStore, filled.answers)
  )
  for (let number = requests.length; number < entries; number++) yield* storeOne(filled, number)
  for (const request of requests) {
    yield* cache.remember(request, answer, { modelGroup: "chat" })
    yield* Effect.yieldNow
  }
  let number = entries
  // Its vector is that of a stored question, which differs in a number, so the guard is asked and refuses.
  const similar = yield* SimilarAnswers.make({ deadline: "1 minute" }).pipe(
    Effect.provideService(QuestionStore.QuestionStore, filled.questions),
    Effect.provideService(Embedder.Embedder, {
      id: "noise",
      dimensions,
      maxTokens: 256,
      threshold: near.threshold,
      embed: () => Effect.sync(() => [vectorOf(entries - 1 - (number++ % 500))])
    })
  )
  const asked = turns(requests)
  return {
    find: Effect.suspend(() => cache.find(asked(), { modelGroup: "chat" })),
    insert: Effect.suspend(() => storeAnswer(filled, number++)),
    findSimilar: Effect.suspend(() => similar.find("acme", `Who was number ${-number}?`)),
    insertSimilar: Effect.suspend(() => storeQuestion(filled, number++))
  } satisfies Full
})

/** What one more entry keeps: its text or vector, and its place in all the maps. */
const memoryFigures = (): ReadonlyArray<Figure> => {
  const kept = Effect.runSync(stores(10_000_000))
  const apart = Effect.runSync(stores(10_000_000))
  let number = 0
  return [
    {
      name: "cache.entry.bytes",
      about: "memory of one stored answer of 1 kB",
      retainedBy: () => storeAnswer(kept, number++),
      calls: 2048
    },
    {
      name: "similar.entry.bytes",
      about: "memory of one question and its vector",
      retainedBy: () => storeQuestion(kept, number++),
      calls: 2048
    },
    {
      name: "similar.alone.bytes",
      about: "the same, when it is the only one of its scope",
      retainedBy: () => storeQuestion(apart, number, `scope ${number++}`),
      calls: 1024
    }
  ]
}

const hashOf = (number: number): string => number.toString(16).padStart(64, "0")
const entryOf = (number: number): string => JSON.stringify({ number, text: sentences.join(" ").slice(0, 1024) })
const questionOf = (number: number): string => `How many of our customers asked for offer number ${number}?`

// Pieces of one long row, each from another place on, so that none has to be made while something is measured.
const vectorOf = (number: number): Float32Array => {
  const from = (number * 97) % (row.length - dimensions)
  return row.subarray(from, from + dimensions)
}

/** Searches. Their indexes are built when they are measured: a million entries take seconds and 2 GB. */
export const indexFigures = (options: { readonly quick: boolean }): Effect.Effect<ReadonlyArray<Figure>> =>
  Effect.sync(() => [
    search("index.10k.cpu", 10_000, 200),
    search("index.100k.cpu", 100_000, 1000),
    ...(options.quick || process.availableMemory() < 4 * 1024 ** 3 ? [] : [search("index.1m.cpu", 1_000_000, 8000)])
  ])

const search = (name: string, entries: number, goal: number): CpuFigure => {
  let query: () => ReadonlyArray<VectorIndex.Neighbour> = () => []
  return {
    name,
    about: `search among ${entries.toLocaleString("en")} entries of one scope`,
    goal,
    prepare: Effect.sync(() => {
      const { index, queries } = filled(entries)
      for (const { id, vector } of queries) {
        if (index.search("acme", vector, near)[0]?.id !== id) throw new Error(`${name}: the nearest was not found`)
      }
      const asked = turns(queries)
      query = () => index.search("acme", asked().vector, near)
    }),
    of: () => Effect.sync(() => query())
  }
}

/** As all-MiniLM has them. */
const dimensions = 384

const near = { limit: 8, threshold: 0.9 }

/** Entries about the same have a cosine of 0.8 on average, others one around 0. */
const entriesAboutTheSame = 100

const filled = (entries: number) => {
  const index = VectorIndex.make({ dimensions, maxEntries: entries })
  const noise = noiseOf(entries)
  const centre = new Float32Array(dimensions)
  const vector = new Float32Array(dimensions)
  const queries: Array<{ readonly id: string; readonly vector: Float32Array }> = []
  for (let entry = 0; entry < entries; entry++) {
    if (entry % entriesAboutTheSame === 0) for (let at = 0; at < dimensions; at++) centre[at] = noise()
    for (let at = 0; at < dimensions; at++) vector[at] = (centre[at] ?? 0) + noise() / 2
    const id = `question-${entry}`
    index.add("acme", id, vector)
    // A paraphrase of an entry has a cosine of 0.97 with it.
    if (entry % Math.floor(entries / 97) === 0)
      queries.push({ id, vector: vector.map((value) => value + noise() * 0.3) })
  }
  return { index, queries }
}

/** Numbers between -1 and 1, the same in each run; those near zero are likelier. */
const noiseOf = (seed: number): (() => number) => {
  let state = seed
  const uniform = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return state / 2 ** 32
  }
  return () => uniform() + uniform()
}

const row = Float32Array.from({ length: 2 ** 18 }, noiseOf(7))

/** Takes one after another, again and again. One value alone would stay in the caches of the processor. */
const turns = <A>(values: ReadonlyArray<A>): (() => A) => {
  let next = 0
  return () => {
    const value = values[next++ % values.length]
    if (value === undefined) throw new Error("unreachable: there is at least one value")
    return value
  }
}

const sentences = [
  "Our customers send about 45,000 requests a day from Berlin, Oslo and New York, and most of them don't wait longer than two seconds.",
  "What's the best way to split the work between several queues when the workers are not equally fast?",
  "The service runs on Kubernetes with twelve pods, each of which opens a connection to PostgreSQL and one to Redis.",
  "We've tried to retry failed calls immediately, but that made the outage worse for everybody who was still connected.",
  'The manager says that a "circuit breaker" would help; the engineers believe that the real problem is the missing deadline.',
  "How would you explain the difference to somebody who has never written an asynchronous program before?",
  "Please consider memory, latency and the costs of the database, and mention which of the numbers you are not sure about.",
  "Last year the same cluster survived a failure of its network because nobody had deployed anything on that Friday."
]

/** Plain English of 2048 characters, each another. */
const prompts = Array.from({ length: 64 }, (_, number) => {
  let text = `How should we set up the ${number + 2} services of our shop so that they keep working?`
  for (let at = number; text.length < 2048; at++) text += ` ${sentences[(at * 5) % sentences.length]}`
  return text.slice(0, 2048)
})

const requests = prompts.map((prompt) => LlmRequest.make({ prompt, scope: "acme", subject: "ann" }))

/** An answer of 1 kB. */
const answer = LlmResponse.make({
  content: LlmResponse.textContent(sentences.join(" ").slice(0, 1024)),
  served: { provider: "primary", model: "canned", from: "provider", attempts: [] }
})

// Half of them may share an answer. None has the same canonical key, which would end the comparison early.
const pairs: ReadonlyArray<readonly [string, string]> = [
  ["Is it safe to eat raw eggs?", "Are raw eggs safe to eat?"],
  ["In Go, how do I read a file?", "What's the way to read a file in Go?"],
  ["How do vaccines work?", "Explain how vaccines work."],
  ["Did Brazil beat Germany in the World Cup?", "Did Germany beat Brazil in the World Cup?"],
  ["Which foods are good for dogs?", "Which foods are not good for dogs?"],
  ["What is 5 % of 80?", "What is 8 % of 80?"]
]
