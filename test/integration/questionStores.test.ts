import { assert, describe, it } from "@effect/vitest"
import { Embedder, QuestionStore, ResilienceEvent, SimilarAnswers } from "@llm-resilience/core"
import { Context, Effect, Fiber, Layer, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as NodeSqlite from "../support/nodeSqlite.ts"
import * as PostgresServer from "../support/postgresServer.ts"
import { about, conforms, newTable } from "../support/questionStores.ts"

conforms({ name: "memory", slack: 0, layer: (options) => Layer.fresh(QuestionStore.layerMemory(options)) })

it("refuses bounds that make no sense", () => {
  assert.throws(() => QuestionStore.layerMemory({ maxEntries: 0 }), RangeError)
})

it.effect("is not made for SQLite", () =>
  Effect.gen(function* () {
    const exit = yield* Effect.exit(QuestionStore.makeSql().pipe(Effect.provide(NodeSqlite.layer(":memory:"))))

    assert.include(String(exit), "only PostgreSQL is supported")
  })
)

// Everything is alike to this model, so that only the guard is left.
const blind = Layer.succeed(Embedder.Embedder, {
  id: "blind",
  dimensions: 3,
  maxTokens: 64,
  threshold: 0.9,
  embed: (texts) => Effect.succeed(texts.map(() => [1, 0, 0]))
})

const answersOver = (store: Layer.Layer<QuestionStore.QuestionStore>) =>
  Effect.map(
    Layer.build(SimilarAnswers.layer().pipe(Layer.provide(store), Layer.provide(blind), Layer.fresh)),
    (built) => Context.get(built, SimilarAnswers.SimilarAnswers)
  )

describe.skipIf(!PostgresServer.installed)("with a PostgreSQL", () => {
  const port = PostgresServer.duringTests()
  // Connections of its own, as another process has.
  const layer = (options: { readonly table: string; readonly maxEntries?: number }) =>
    Layer.unwrap(
      Effect.sync(() =>
        QuestionStore.layerSql(options).pipe(Layer.provide(Layer.orDie(PostgresServer.client(port(), 4))), Layer.fresh)
      )
    )

  conforms({ name: "PostgreSQL", slack: 256, layer })

  it.live("processes that start at the same moment share the table, and find what another one remembered", () =>
    Effect.gen(function* () {
      const table = newTable()
      const [one, ...others] = yield* Effect.forEach(Array.from({ length: 6 }), () => answersOver(layer({ table })), {
        concurrency: "unbounded"
      })
      yield* Effect.forEach(others, (answers, at) => answers.remember("a", `How do ${at} magnets work?`, `${at}`), {
        concurrency: "unbounded"
      })
      yield* one?.remember("a", "How do magnets work?", "magnets") ?? Effect.void
      // They are embedded in the background.
      while ((yield* one?.statistics ?? Effect.die("none")).embedded < 6) yield* Effect.sleep("10 millis")

      for (const answers of others) {
        const find = (scope: string, question: string) =>
          Effect.map(answers.find(scope, question), (found) =>
            Option.getOrUndefined(Option.map(found, ({ key, match }) => `${match} ${key}`))
          )
        assert.strictEqual(yield* find("a", "how do magnets work"), "canonical magnets")
        assert.strictEqual(yield* find("a", "How does a magnet work?"), "similar magnets")
        assert.strictEqual(yield* find("a", "How do 3 magnets work?"), "canonical 3")
        assert.isUndefined(yield* find("a", "How do 9 magnets work?"))
        assert.isUndefined(yield* find("b", "how do magnets work"))
      }
    }).pipe(Effect.scoped)
  )

  it.effect("removes what no answer can be served for any more", () =>
    Effect.gen(function* () {
      const store = yield* QuestionStore.QuestionStore
      yield* store.put(about("a", "Why?"), undefined)
      yield* TestClock.adjust("9 days")
      for (let at = 0; at < 256; at++) yield* store.put(about("a", `${at}`), undefined)

      assert.isUndefined((yield* store.find("a", "why?", undefined)).same)
      assert.deepStrictEqual(yield* store.sizes, { entries: 256, embedded: 0 })
    }).pipe(Effect.provide(layer({ table: newTable() })))
  )

  it.live("nothing but similar answers is lost with the database", () =>
    Effect.gen(function* () {
      const server = yield* PostgresServer.make
      const answers = yield* answersOver(
        QuestionStore.layerSql().pipe(Layer.provide(Layer.orDie(PostgresServer.client(server.port))))
      )
      yield* answers.remember("a", "How do magnets work?", "k")
      assert.isTrue(Option.isSome(yield* answers.find("a", "how do magnets work")))
      yield* server.stop

      assert.isTrue(Option.isNone(yield* answers.find("a", "how do magnets work")))
      yield* answers.remember("a", "How do motors work?", "k2")
      yield* answers.forget({ key: "k" })
      const { entries, failed, late } = yield* answers.statistics
      assert.strictEqual(entries, 0)
      assert.isAtLeast(failed + late, 3)
    }).pipe(Effect.scoped)
  )
})

if (!PostgresServer.installed) it.skip(`PostgreSQL: ${PostgresServer.missing}`, () => {})

describe("similar answers over a broken store", () => {
  const error = (operation: "find") => Effect.fail(new QuestionStore.QuestionStoreError({ operation, cause: "disk" }))
  const store = (find: QuestionStore.QuestionStore["Service"]["find"]): QuestionStore.QuestionStore["Service"] => ({
    put: () => error("find"),
    find,
    embed: () => error("find"),
    nearest: () => error("find"),
    forget: () => error("find"),
    sizes: error("find")
  })
  const broken = {
    fails: store(() => error("find")),
    dies: store(() => Effect.die("bug")),
    "never answers": store(() => Effect.never),
    "cannot be stopped": store(() => Effect.uninterruptible(Effect.never)),
    "loses its vectors": store(() => Effect.succeed({ same: undefined, others: true }))
  }

  for (const [name, service] of Object.entries(broken)) {
    it.effect(`finds nothing and tells it, when the store ${name}`, () =>
      Effect.gen(function* () {
        const hub = ResilienceEvent.makeHub()
        const told: Array<string> = []
        yield* Effect.forkScoped(
          Stream.runForEach(hub.stream, ({ _tag }) => Effect.sync(() => told.push(_tag))),
          { startImmediately: true }
        )
        const answers = yield* answersOver(Layer.succeed(QuestionStore.QuestionStore, service))
        yield* answers.remember("a", "Why?", "k")
        yield* answers.forget({ key: "k" })
        const finding = yield* Effect.forkChild(answers.find("a", "Why?", { request: 1, hub }))
        yield* TestClock.adjust("100 millis")

        assert.isTrue(Option.isNone(yield* Fiber.join(finding)))
        yield* TestClock.adjust(1)
        assert.lengthOf(told, 1)
        const { failed, late, none } = yield* answers.statistics
        assert.deepStrictEqual([failed + late, none], [3, 1])
      }).pipe(Effect.scoped)
    )
  }
})
