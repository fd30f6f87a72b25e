import * as NodeRedis from "@effect/platform-node/NodeRedis"
import * as DeferredStore from "@llm-resilience/core/DeferredStore"
import * as Layer from "effect/Layer"
import * as NodeSqlite from "./nodeSqlite.ts"

/** The store that both the crash test and the process that it kills look into: a file of SQLite, or `redis:` and a port. */
export const storeAt = (database: string) =>
  database.startsWith("redis:")
    ? DeferredStore.layerRedis().pipe(
        Layer.provide(NodeRedis.layer({ socket: { port: Number(database.slice(6)), host: "127.0.0.1" } })),
        Layer.orDie
      )
    : Layer.orDie(DeferredStore.layerSql().pipe(Layer.provide(NodeSqlite.layer(database))))
