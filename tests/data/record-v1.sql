BEGIN TRANSACTION;
CREATE TABLE kdcurve_events (
	id INTEGER NOT NULL, 
	search VARCHAR(200) NOT NULL, 
	time FLOAT NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	trial INTEGER, 
	data JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "kdcurve_events" VALUES(1,'whole',1.79544933430506300922e+09,'planned',NULL,'{"spec": {"name": "whole", "dataset": {"name": "digits", "root": "data", "validation": 0.1, "label_noise": 0.0, "seed": 0}, "student": "cnn8", "recipe": {"epochs": 3, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "lr_schedule": "cosine"}, "contexts": {"method": ["random"], "fraction": [0.9], "teacher": ["cnn4"]}, "tune": {"kd_weight": {"low": 0.0, "high": 1.0, "log": false}}, "seeds": {"trials": 2, "teacher": 1, "scores": 10}, "sampler": "tpe", "early_stopping": {"name": "asha", "reduction_factor": 3.0}, "budget": {"trials_per_context": 5}, "resources": {"cpu": 1.0, "gpu": 0.0}, "seed": 0}, "versions": {"kdcurve": "0.1.0"}, "git_commit": "107856f", "hardware": {"machine": "x86_64", "cpus": 2}}');
INSERT INTO "kdcurve_events" VALUES(2,'cut',1.79544933430647301675e+09,'planned',NULL,'{"spec": {"name": "cut", "dataset": {"name": "digits", "root": "data", "validation": 0.1, "label_noise": 0.0, "seed": 0}, "student": "cnn8", "recipe": {"epochs": 3, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "lr_schedule": "cosine"}, "contexts": {"method": ["random"], "fraction": [0.5], "teacher": ["cnn4"]}, "tune": {"kd_weight": {"low": 0.0, "high": 1.0, "log": false}}, "seeds": {"trials": 2, "teacher": 1, "scores": 10}, "sampler": "tpe", "early_stopping": {"name": "asha", "reduction_factor": 3.0}, "budget": {"trials_per_context": 6}, "resources": {"cpu": 1.0, "gpu": 0.0}, "seed": 0}, "versions": {"kdcurve": "0.1.0"}, "git_commit": "107856f", "hardware": {"machine": "x86_64", "cpus": 2}}');
INSERT INTO "kdcurve_events" VALUES(3,'whole',1.79544933430668854712e+09,'prepared',NULL,'{"key": "teacher-0123abcd", "metadata": {"val_accuracy": "0.9583"}}');
INSERT INTO "kdcurve_events" VALUES(4,'whole',1.7954493356685721874e+09,'proposed',0,'{"context": "d9e5f1e2", "values": {"kd_weight": 0.0}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(5,'whole',1.79544933567348766328e+09,'started',0,'{}');
INSERT INTO "kdcurve_events" VALUES(6,'whole',1.79544933567409372332e+09,'rung',0,'{"epoch": 1, "score": 0.762, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(7,'whole',1.79544933567430162429e+09,'reported',0,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.762}}');
INSERT INTO "kdcurve_events" VALUES(8,'whole',1.79544933567463040353e+09,'reported',0,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.772}}');
INSERT INTO "kdcurve_events" VALUES(9,'whole',1.79544933567463040353e+09,'reported',0,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.782}}');
INSERT INTO "kdcurve_events" VALUES(10,'whole',1.79544933567496418956e+09,'ended',0,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(11,'whole',1.79544933567511510843e+09,'proposed',1,'{"context": "d9e5f1e2", "values": {"kd_weight": 0.5}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(12,'whole',1.79544933567538690568e+09,'started',1,'{}');
INSERT INTO "kdcurve_events" VALUES(13,'whole',1.79544933567598986629e+09,'rung',1,'{"epoch": 1, "score": 0.772, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(14,'whole',1.79544933567615771293e+09,'reported',1,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.772}}');
INSERT INTO "kdcurve_events" VALUES(15,'whole',1.79544933567628765109e+09,'reported',1,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.782}}');
INSERT INTO "kdcurve_events" VALUES(16,'whole',1.79544933567628765109e+09,'reported',1,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.792}}');
INSERT INTO "kdcurve_events" VALUES(17,'whole',1.79544933567645764345e+09,'ended',1,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(18,'cut',1795449335.67659,'proposed',0,'{"context": "225e4928", "values": {"kd_weight": 0.0}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(19,'cut',1.79544933567675662035e+09,'started',0,'{}');
INSERT INTO "kdcurve_events" VALUES(20,'cut',1.79544933567702531818e+09,'rung',0,'{"epoch": 1, "score": 0.642, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(21,'cut',1.79544933567718911172e+09,'reported',0,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.642}}');
INSERT INTO "kdcurve_events" VALUES(22,'cut',1.79544933567743968962e+09,'reported',0,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.652}}');
INSERT INTO "kdcurve_events" VALUES(23,'cut',1.79544933567743968962e+09,'reported',0,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.662}}');
INSERT INTO "kdcurve_events" VALUES(24,'cut',1.79544933567761921889e+09,'ended',0,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(25,'cut',1.79544933567773771282e+09,'proposed',1,'{"context": "225e4928", "values": {"kd_weight": 0.5}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(26,'cut',1.79544933567788839341e+09,'started',1,'{}');
INSERT INTO "kdcurve_events" VALUES(27,'cut',1.7954493356782007217e+09,'rung',1,'{"epoch": 1, "score": 0.652, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(28,'cut',1.79544933567834401125e+09,'reported',1,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.652}}');
INSERT INTO "kdcurve_events" VALUES(29,'cut',1.79544933567847013475e+09,'reported',1,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.662}}');
INSERT INTO "kdcurve_events" VALUES(30,'cut',1.79544933567847013475e+09,'reported',1,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.672}}');
INSERT INTO "kdcurve_events" VALUES(31,'cut',1.79544933567864012716e+09,'ended',1,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(32,'cut',1.79544933567875361441e+09,'proposed',2,'{"context": "225e4928", "values": {"kd_weight": 1.0}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(33,'cut',1.79544933567890143398e+09,'started',2,'{}');
INSERT INTO "kdcurve_events" VALUES(34,'cut',1.79544933567918229104e+09,'rung',2,'{"epoch": 1, "score": 0.562, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(35,'cut',1.79544933567945551875e+09,'reported',2,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.562}}');
INSERT INTO "kdcurve_events" VALUES(36,'cut',1.79544933567958188056e+09,'reported',2,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.5720000000000001}}');
INSERT INTO "kdcurve_events" VALUES(37,'cut',1.79544933567958188056e+09,'reported',2,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.5820000000000001}}');
INSERT INTO "kdcurve_events" VALUES(38,'cut',1.79544933567974376682e+09,'ended',2,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(39,'whole',1.79544933567987012859e+09,'proposed',2,'{"context": "d9e5f1e2", "values": {"kd_weight": 1.0}, "seed": 0, "start_design": true}');
INSERT INTO "kdcurve_events" VALUES(40,'whole',1.79544933568002748492e+09,'started',2,'{}');
INSERT INTO "kdcurve_events" VALUES(41,'whole',1.79544933568032383914e+09,'rung',2,'{"epoch": 1, "score": 0.682, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(42,'whole',1.79544933568044900898e+09,'reported',2,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.682}}');
INSERT INTO "kdcurve_events" VALUES(43,'whole',1.79544933568056178097e+09,'reported',2,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.6920000000000001}}');
INSERT INTO "kdcurve_events" VALUES(44,'whole',1.79544933568056178097e+09,'reported',2,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.7020000000000001}}');
INSERT INTO "kdcurve_events" VALUES(45,'whole',1.79544933568071842194e+09,'ended',2,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(46,'whole',1.79544933578118491167e+09,'proposed',3,'{"context": "d9e5f1e2", "values": {"kd_weight": 0.5375770563790367}, "seed": 0, "start_design": false}');
INSERT INTO "kdcurve_events" VALUES(47,'whole',1.79544933578529167174e+09,'started',3,'{}');
INSERT INTO "kdcurve_events" VALUES(48,'whole',1.79544933578611540792e+09,'rung',3,'{"epoch": 1, "score": 0.7687114284564545, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(49,'whole',1.79544933578640031812e+09,'reported',3,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.7687114284564545}}');
INSERT INTO "kdcurve_events" VALUES(50,'whole',1.79544933578654909139e+09,'reported',3,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.7787114284564545}}');
INSERT INTO "kdcurve_events" VALUES(51,'whole',1.79544933578654909139e+09,'reported',3,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.7887114284564545}}');
INSERT INTO "kdcurve_events" VALUES(52,'whole',1.7954493357867329121e+09,'ended',3,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(53,'whole',1.79544933580923748018e+09,'proposed',4,'{"context": "d9e5f1e2", "values": {"kd_weight": 0.4014043686647068}, "seed": 0, "start_design": false}');
INSERT INTO "kdcurve_events" VALUES(54,'whole',1.79544933581328129768e+09,'started',4,'{}');
INSERT INTO "kdcurve_events" VALUES(55,'whole',1.79544933581416130065e+09,'rung',4,'{"epoch": 1, "score": 0.7779434308031424, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(56,'whole',1.79544933581448674202e+09,'reported',4,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.7779434308031424}}');
INSERT INTO "kdcurve_events" VALUES(57,'whole',1.7954493358146443367e+09,'reported',4,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.7879434308031424}}');
INSERT INTO "kdcurve_events" VALUES(58,'whole',1.7954493358146443367e+09,'reported',4,'{"epoch": 3, "metrics": {"epoch": 3, "val_accuracy": 0.7979434308031425}}');
INSERT INTO "kdcurve_events" VALUES(59,'whole',1.79544933581493663791e+09,'ended',4,'{"outcome": "complete", "reason": null}');
INSERT INTO "kdcurve_events" VALUES(60,'cut',1.79544933592427158352e+09,'proposed',3,'{"context": "225e4928", "values": {"kd_weight": 0.5740777133034096}, "seed": 0, "start_design": false}');
INSERT INTO "kdcurve_events" VALUES(61,'cut',1.79544933592931675904e+09,'started',3,'{}');
INSERT INTO "kdcurve_events" VALUES(62,'cut',1.79544933592990636826e+09,'reported',3,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.25, "train_loss": NaN}}');
INSERT INTO "kdcurve_events" VALUES(63,'cut',1.79544933593008184434e+09,'ended',3,'{"outcome": "failed", "reason": "FloatingPointError: the loss is not finite"}');
INSERT INTO "kdcurve_events" VALUES(64,'cut',1.79544933594917607302e+09,'proposed',4,'{"context": "225e4928", "values": {"kd_weight": 0.49792750424605026}, "seed": 0, "start_design": false}');
INSERT INTO "kdcurve_events" VALUES(65,'cut',1.79544933595330095292e+09,'started',4,'{}');
INSERT INTO "kdcurve_events" VALUES(66,'cut',1.79544933595409560199e+09,'rung',4,'{"epoch": 1, "score": 0.652164940612586, "stop": false}');
INSERT INTO "kdcurve_events" VALUES(67,'cut',1.79544933595432209963e+09,'reported',4,'{"epoch": 1, "metrics": {"epoch": 1, "val_accuracy": 0.652164940612586}}');
INSERT INTO "kdcurve_events" VALUES(68,'cut',1.79544933595447230335e+09,'reported',4,'{"epoch": 2, "metrics": {"epoch": 2, "val_accuracy": 0.662164940612586}}');
INSERT INTO "kdcurve_events" VALUES(69,'whole',1.79544933595459842677e+09,'answer',NULL,'{"curve": [{"fraction": 0.1, "kd_weight": 0.3}, {"fraction": 0.9, "kd_weight": Infinity}]}');
INSERT INTO "kdcurve_events" VALUES(70,'whole',1.79544933595480799676e+09,'closed',NULL,'{"state": "complete"}');
INSERT INTO "kdcurve_events" VALUES(71,'cut',1.79544933595495700834e+09,'closed',NULL,'{"state": "interrupted"}');
CREATE TABLE kdcurve_journal (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "kdcurve_journal" VALUES(1);
CREATE INDEX kdcurve_events_by_search ON kdcurve_events (search, id);
COMMIT;
